"""A handler on BaseHandler with an explanation and a description of itself."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class Insights(BaseHandler):
    def preprocess(self, data):
        rows = [row.get("data") or row.get("body") for row in data]
        return torch.tensor([row if isinstance(row, list) else row["values"] for row in rows], dtype=torch.float32)

    def get_insights(self, tensors, inputs, target):
        return [{"target": target, "inputs": inputs, "attributions": (tensors * (target + 1)).tolist()[0]}]

    def describe_handle(self):
        return {"inputs": ["values"], "mapping": self.mapping, "ready": self.initialized}
