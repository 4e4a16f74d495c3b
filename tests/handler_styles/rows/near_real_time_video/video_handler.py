import base64
import io

import torch
from PIL import Image
from ts.torch_handler.image_classifier import ImageClassifier


class VideoBatchClassifier(ImageClassifier):
    """One request holds many frames: a dict of base64 JPEGs or PNGs, keyed by the frame's name."""

    topk = 1

    def initialize(self, context):
        super().initialize(context)
        self.batch_size = context.system_properties["batch_size"]

    def preprocess(self, data):
        self.frames_per_request = []
        images = []
        for row in data:
            frames = row.get("data") or row.get("body")
            if isinstance(frames, (bytes, bytearray)):
                frames = {"frame": base64.b64encode(frames)}
            for frame in frames.values():
                image = Image.open(io.BytesIO(base64.b64decode(frame)))
                images.append(self.image_processing(image))
            self.frames_per_request.append(len(frames))
        return torch.stack(images).to(self.device)

    def postprocess(self, data):
        answers = super().postprocess(data)
        result = []
        for count in self.frames_per_request:
            result.append(answers[:count])
            answers = answers[count:]
        return result
