import logging
import os
import zipfile
from abc import ABC

import numpy as np
import torch
from PIL import Image
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class DiffusersHandler(BaseHandler, ABC):
    """Plain text in, the numbers of an image out."""

    def __init__(self):
        self.initialized = False

    def initialize(self, ctx):
        self.manifest = ctx.manifest
        properties = ctx.system_properties
        model_dir = properties.get("model_dir")
        with zipfile.ZipFile(model_dir + "/model.zip", "r") as zip_ref:
            zip_ref.extractall(model_dir + "/model")
        self.colours = torch.load(os.path.join(model_dir, "model", "unet.pt"))
        self.initialized = True

    def preprocess(self, requests):
        inputs = []
        for _, data in enumerate(requests):
            input_text = data.get("data")
            if input_text is None:
                input_text = data.get("body")
            if isinstance(input_text, (bytes, bytearray)):
                input_text = input_text.decode("utf-8")
            inputs.append(input_text)
        return inputs

    def inference(self, inputs):
        return [Image.new("RGB", (420, 420), tuple(self.colours[len(text) % 2].tolist())) for text in inputs]

    def postprocess(self, inference_output):
        return [np.array(image).tolist() for image in inference_output]
