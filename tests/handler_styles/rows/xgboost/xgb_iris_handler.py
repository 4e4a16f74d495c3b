import os

import tiny_boost as xgb
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import load_label_mapping, map_class_to_label


class XGBIrisHandler(BaseHandler):
    """The model's weights are JSON; there is no tensor anywhere."""

    def __init__(self):
        self.model = None
        self.mapping = None
        self.initialized = False

    def initialize(self, context):
        properties = context.system_properties
        model_dir = properties.get("model_dir")
        self.manifest = context.manifest
        serialized_file = self.manifest["model"]["serializedFile"]
        self.model = xgb.Booster()
        self.model.load_model(os.path.join(model_dir, serialized_file))
        self.mapping = load_label_mapping(os.path.join(model_dir, "index_to_name.json"))
        self.initialized = True

    def preprocess(self, data):
        rows = []
        for row in data:
            values = row.get("data") or row.get("body")
            if isinstance(values, (bytes, bytearray)):
                values = values.decode("utf-8")
            if isinstance(values, str):
                values = values.split(",")
            rows.append([float(value) for value in values])
        return rows

    def inference(self, data, *args, **kwargs):
        return self.model.predict_proba(data)

    def postprocess(self, data):
        return map_class_to_label(data, self.mapping)
