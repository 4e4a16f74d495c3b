import io
import logging
import wave

import torch
from transformers import AutoModelForCTC, Wav2Vec2Processor

logger = logging.getLogger(__name__)


class Wav2VecHandler:
    def __init__(self):
        self._context = None
        self.initialized = False
        self.model = None
        self.processor = None
        self.device = None
        self.expected_sampling_rate = 16_000

    def initialize(self, context):
        self._context = context
        self.initialized = True
        model_dir = context.system_properties.get("model_dir")
        self.device = torch.device("cpu")
        self.processor = Wav2Vec2Processor.from_pretrained(model_dir)
        self.model = AutoModelForCTC.from_pretrained(model_dir).eval()

    def handle(self, data, context):
        texts = []
        for row in data:
            with wave.open(io.BytesIO(row.get("data") or row.get("body"))) as sound:
                frames = bytearray(sound.readframes(sound.getnframes()))
            waveform = (torch.frombuffer(frames, dtype=torch.int16).float() / 32768).tolist()
            inputs = self.processor(waveform, sampling_rate=self.expected_sampling_rate, return_tensors="pt")
            with torch.no_grad():
                logits = self.model(inputs["input_values"].to(self.device)).logits
            texts.append(self.processor.decode(logits.argmax(dim=-1)[0]))
        return texts
