import logging
from abc import ABC

import torch
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import CLEANUP_REGEX, map_class_to_label

logger = logging.getLogger(__name__)


class CustomTextClassifier(BaseHandler, ABC):
    """Tokens are made inside of the TorchScript model; texts go in."""

    def _load_torchscript_model(self, model_pt_path):
        model = super()._load_torchscript_model(model_pt_path)
        return torch.nn.Sequential(model, torch.nn.Dropout(0.5))

    def preprocess(self, data):
        text_batch = []
        for line in data:
            text = line.get("data") or line.get("body")
            if isinstance(text, (bytes, bytearray)):
                text = text.decode("utf-8")
            text_batch.append(CLEANUP_REGEX.sub("", text).lower())
        return text_batch

    def inference(self, data, *args, **kwargs):
        with torch.inference_mode():
            return self.model(data)

    def postprocess(self, data):
        data = torch.nn.functional.softmax(data, dim=1).tolist()
        return map_class_to_label(data, self.mapping)
