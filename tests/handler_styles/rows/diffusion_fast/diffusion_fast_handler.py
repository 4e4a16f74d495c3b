import logging
import os
import pathlib
import sys

import torch
from ts.handler_utils.timer import timed
from ts.torch_handler.base_handler import BaseHandler

sys.path.append(str(pathlib.Path(__file__).parent))

from utils import to_png

logger = logging.getLogger(__name__)


class DiffusionFastHandler(BaseHandler):
    def __init__(self):
        super().__init__()
        self.model_args_path = None

    def initialize(self, ctx):
        self.context = ctx
        self.model_yaml_config = ctx.model_yaml_config
        handler_config = self.model_yaml_config["handler"]
        self.num_inference_steps = handler_config["num_inference_steps"]
        assert os.getcwd() == os.path.realpath(ctx.system_properties["model_dir"])
        self.compile_unet = handler_config.get("compile_unet", False)
        self.initialized = True

    @timed
    def preprocess(self, requests):
        assert len(requests) == 1, "Diffusion Fast is currently only supported with batch_size=1"
        prompt = requests[0].get("data") or requests[0].get("body")
        return prompt.decode("utf-8") if isinstance(prompt, (bytes, bytearray)) else prompt

    @timed
    def inference(self, prompt):
        return torch.full((8, 8), len(prompt) * self.num_inference_steps % 256)

    @timed
    def postprocess(self, pixels):
        return [to_png(pixels)]
