import logging
import os
import uuid
import wave

import torch
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class SpeechT5Handler(BaseHandler):
    """Text in, WAV file out."""

    def initialize(self, ctx):
        settings = ctx.model_yaml_config["handler"]
        model_dir = ctx.system_properties.get("model_dir")
        self.vocoder = torch.load(os.path.join(model_dir, settings["vocoder"]), map_location="cpu")
        self.speaker = torch.load(os.path.join(model_dir, settings["speaker_embeddings"]), map_location="cpu")
        self.output_dir = settings["output_dir"]
        os.makedirs(self.output_dir, exist_ok=True)
        self.initialized = True

    def preprocess(self, requests):
        assert len(requests) == 1, "This is currently only supported with batch_size=1"
        data = requests[0].get("data") or requests[0].get("body")
        return data.decode("utf-8") if isinstance(data, (bytes, bytearray)) else data

    def inference(self, text):
        tones = [self.vocoder[ord(character) % len(self.vocoder)] for character in text]
        return torch.cat(tones) * self.speaker

    def postprocess(self, speech):
        path = os.path.join(self.output_dir, f"{uuid.uuid4().hex}.wav")
        with wave.open(path, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(16000)
            sound.writeframes((speech * 32767).round().to(torch.int16).numpy().tobytes())
        with open(path, "rb") as f:
            content = f.read()
        os.remove(path)
        return [content]
