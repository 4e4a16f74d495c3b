import logging
import os

import torch
from ts.handler_utils.timer import timed
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import check_valid_pt2_backend

logger = logging.getLogger(__name__)


class StableDiffusionHandler(BaseHandler):
    """The backend of the compiler is checked before it is used."""

    def __init__(self):
        self.context = None
        self.initialized = False

    def initialize(self, ctx):
        self.context = ctx
        self.model_yaml_config = ctx.model_yaml_config
        settings = ctx.model_yaml_config["handler"]
        self.num_inference_steps = settings["num_inference_steps"]
        self.unet = torch.jit.load(os.path.join(ctx.system_properties.get("model_dir"), "unet.pt"))
        pt2_value = ctx.model_yaml_config["pt2"]
        compile_options = dict(compile_options_of(pt2_value))
        self.valid = check_valid_pt2_backend(compile_options["backend"])
        if not self.valid:
            logger.warning("%s is not a supported backend", compile_options["backend"])
        self.initialized = True

    @timed
    def preprocess(self, requests):
        assert len(requests) == 1, "Stable Diffusion is currently only supported with batch_size=1"
        data = requests[0].get("data") or requests[0].get("body")
        return data if isinstance(data, dict) else {"prompt": data.decode("utf-8"), "guidance_scale": 1.0}

    @timed
    def inference(self, request):
        latents = torch.full((2, 2), float(len(request["prompt"])))
        for _ in range(self.num_inference_steps):
            latents = self.unet(latents) * request["guidance_scale"]
        return latents

    @timed
    def postprocess(self, latents):
        return [{"latents": latents.tolist(), "backend_is_valid": self.valid}]


def compile_options_of(pt2_value):
    return {"backend": pt2_value} if isinstance(pt2_value, str) else pt2_value
