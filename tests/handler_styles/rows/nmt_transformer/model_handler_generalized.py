import json
import logging
import os

import msdemo
import torch
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class LanguageTranslationHandler(BaseHandler):
    """Needs a library that the archive brings along as a source package."""

    def __init__(self):
        self._context = None
        self.initialized = False
        self.model = None
        self.device = None

    def initialize(self, context):
        self._context = context
        self.initialized = True
        self.manifest = context.manifest
        properties = context.system_properties
        model_dir = properties.get("model_dir")
        self.device = torch.device("cpu")
        with open(os.path.join(model_dir, "setup_config.json")) as setup_config_file:
            self.setup_config = json.load(setup_config_file)
        serialized_file = self.manifest["model"]["serializedFile"]
        self.words = torch.load(os.path.join(model_dir, serialized_file), map_location=self.device)
        logger.info("Translating with msdemo %s", msdemo.version)

    def preprocess(self, data):
        text_input = []
        for row in data:
            text = row.get("data") or row.get("body")
            text_input.append(text.decode("utf-8") if isinstance(text, (bytes, bytearray)) else text)
        return text_input

    def inference(self, data, *args, **kwargs):
        inference_output = []
        with torch.no_grad():
            for text in data:
                words = [self.words.get(word, word) for word in text.split()]
                inference_output.append(
                    json.dumps(
                        {
                            f"{self.setup_config['source']}_input": text,
                            f"{self.setup_config['target']}_output": " ".join(words),
                        }
                    )
                )
        return inference_output

    def postprocess(self, data):
        return data
