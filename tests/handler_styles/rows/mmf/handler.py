import csv
import io
import logging
import os
import wave

import torch
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class MMFHandler(BaseHandler):
    """Sound, words and the labels that are allowed, as fields of one form."""

    def initialize(self, ctx):
        self.manifest = ctx.manifest
        self.device = torch.device("cpu")
        serialized_file = self.manifest["model"]["serializedFile"]
        self.model = torch.jit.load(os.path.join(ctx.system_properties.get("model_dir"), serialized_file))
        self.model.eval()
        with open("labels.csv") as labels:  # the model's folder is the current one
            self.labels = {row["label"]: int(row["index"]) for row in csv.DictReader(labels)}
        self.initialized = True

    def preprocess(self, requests):
        samples = []
        for data in requests:
            video, script, labels = data["data"], data["script"], data["labels"]
            with wave.open(io.BytesIO(video)) as sound:
                samples_16 = torch.frombuffer(bytearray(sound.readframes(sound.getnframes())), dtype=torch.int16)
            words = script.decode("utf-8") if isinstance(script, (bytes, bytearray)) else script
            allowed = labels.decode("utf-8").split(",")
            features = torch.tensor([samples_16.float().abs().mean() / 32768, len(words.split()) / 10])
            samples.append((features, [self.labels[label] for label in allowed]))
        return samples

    def inference(self, samples):
        with torch.no_grad():
            scores = self.model(torch.stack([features for features, _ in samples]))
        names = {index: label for label, index in self.labels.items()}
        return [
            names[max(allowed, key=row.__getitem__)] for row, (_, allowed) in zip(scores.tolist(), samples, strict=True)
        ]

    def postprocess(self, inference_output):
        return inference_output
