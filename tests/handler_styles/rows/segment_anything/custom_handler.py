import base64
import io
import logging
import os
import pickle

import numpy as np
import torch
from PIL import Image
from ts.handler_utils.timer import timed
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class SegmentAnythingHandler(BaseHandler):
    """Image in, masks out as a base64 text of a pickle."""

    def __init__(self):
        super().__init__()
        self.mask_generator = None
        self.initialized = False

    def initialize(self, ctx):
        properties = ctx.system_properties
        self.map_location = "cpu"
        if torch.cuda.is_available() and properties.get("gpu_id") is not None:
            self.map_location = "cuda"
            self.device = torch.device("cuda:" + str(properties.get("gpu_id")))
        else:
            self.device = torch.device("cpu")

        self.model_yaml_config = ctx.model_yaml_config
        handler_config = ctx.model_yaml_config["handler"]
        checkpoint = os.path.join(properties.get("model_dir"), handler_config["sam_checkpoint"])
        weights = torch.load(checkpoint, map_location=self.device)
        self.process_batch_size = handler_config["process_batch_size"]
        self.thresholds = weights[handler_config["model_type"]]
        logger.info("Model weights %s loaded successfully", checkpoint)
        self.initialized = True

    @timed
    def preprocess(self, data):
        images = []
        for row in data:
            image = row.get("data") or row.get("body")
            if isinstance(image, str):
                image = base64.b64decode(image)
            if isinstance(image, (bytearray, bytes)):
                images.append(np.asarray(Image.open(io.BytesIO(image)).convert("L")))
            else:
                images.append(np.array(image))
        return images

    @timed
    def inference(self, data):
        return [[self.mask(image, float(threshold)) for threshold in self.thresholds] for image in data]

    @timed
    def postprocess(self, data):
        return [base64.b64encode(pickle.dumps(masks)).decode("utf-8") for masks in data]

    def mask(self, image, threshold):
        segmentation = image >= threshold
        return {"segmentation": segmentation, "area": int(segmentation.sum())}
