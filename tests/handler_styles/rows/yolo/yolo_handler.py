import os
from collections import Counter

import torch
from ts.torch_handler.object_detector import ObjectDetector


class Yolo(ObjectDetector):
    """Loads its weights itself and answers with how many objects of each kind there are."""

    def __init__(self):
        super().__init__()

    def initialize(self, context):
        self.device = torch.device("cpu")
        properties = context.system_properties
        self.manifest = context.manifest
        model_dir = properties.get("model_dir")
        self.model_pt_path = None
        if "serializedFile" in self.manifest["model"]:
            serialized_file = self.manifest["model"]["serializedFile"]
            self.model_pt_path = os.path.join(model_dir, serialized_file)
        self.model = torch.jit.load(self.model_pt_path).to(self.device)
        self.names = ["person", "bus", "dog"]
        self.initialized = True

    def preprocess(self, data):
        images = super().preprocess(data)
        return torch.nn.functional.interpolate(images, size=(32, 32))

    def postprocess(self, res):
        output = []
        for data in res:
            kept = data[data[:, 0] > 0.5]
            output.append(dict(Counter(self.names[int(index)] for index in kept[:, 1])))
        return output
