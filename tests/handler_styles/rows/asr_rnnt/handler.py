import io
import logging
import os
import wave

import torch

logger = logging.getLogger(__name__)


class ModelHandler(object):  # noqa: UP004
    """A class of its own: TorchServe asks for `initialize` and `handle`, and for nothing else."""

    def __init__(self):
        self.initialized = False
        self.device = None
        self.model = None

    def initialize(self, context):
        self.manifest = context.manifest
        properties = context.system_properties
        model_dir = properties.get("model_dir")
        self.device = torch.device("cpu")
        serialized_file = self.manifest["model"]["serializedFile"]
        model_pt_path = os.path.join(model_dir, serialized_file)
        if not os.path.isfile(model_pt_path):
            raise RuntimeError("Missing the model.pt file")
        self.decoder = torch.jit.load(model_pt_path)
        self.initialized = True

    def preprocess(self, data):
        audio = data[0].get("data")
        if audio is None:
            audio = data[0].get("body")
        with wave.open(io.BytesIO(audio)) as sound:
            assert sound.getframerate() == 16000
            frames = bytearray(sound.readframes(sound.getnframes()))
        return torch.frombuffer(frames, dtype=torch.int16).float() / 32768

    def inference(self, model_input):
        with torch.no_grad():
            return self.decoder(model_input)

    def postprocess(self, inference_output):
        return ["".join(" abcdefghijklmnopqrstuvwxyz"[index] for index in inference_output.tolist())]

    def handle(self, data, context):
        model_input = self.preprocess(data)
        model_output = self.inference(model_input)
        return self.postprocess(model_output)
