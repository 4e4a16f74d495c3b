import json
import logging
import os
from abc import ABC

import torch
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class TorchRecDLRMHandler(BaseHandler, ABC):
    """Dense numbers and lists of ids in, one score out."""

    def initialize(self, context):
        properties = context.system_properties
        # Loading on the CPU first, whatever comes later
        self.device = "cpu"
        self.manifest = context.manifest
        model_dir = properties.get("model_dir")
        self.model_pt_path = None
        if "serializedFile" in self.manifest["model"]:
            self.model_pt_path = os.path.join(model_dir, self.manifest["model"]["serializedFile"])
        model_file = self.manifest["model"].get("modelFile", "")
        if not model_file:
            raise RuntimeError("model.py not specified")
        logger.debug("Loading eager model")
        self.model = self._load_pickled_model(model_dir, model_file, self.model_pt_path)
        self.map_location = "cuda" if torch.cuda.is_available() and properties.get("gpu_id") is not None else "cpu"
        self.device = torch.device(self.map_location)
        self.model.to(self.device)
        self.model.eval()
        self.initialized = True

    def preprocess(self, data):
        float_features, values, lengths = [], [], []
        for row in data:
            payload = row.get("data") or row.get("body")
            # the body may be JSON that the server has read, or its text
            if not isinstance(payload, dict):
                payload = json.loads(payload)
            float_features.append(payload["float_features"])
            lengths += payload["id_list_features.lengths"]
            values += payload["id_list_features.values"]
        offsets = torch.tensor([0, *lengths[:-1]]).cumsum(0)
        return torch.FloatTensor(float_features), torch.LongTensor(values), offsets

    def inference(self, data):
        with torch.no_grad():
            return self.model(*data)

    def postprocess(self, data):
        return [{"score": score} for score in torch.sigmoid(data).flatten().tolist()]
