import logging
from abc import ABC

import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration
from ts.handler_utils.timer import timed
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class TransformerTranslationHandler(BaseHandler, ABC):
    """Translates; the model is compiled as the yaml says."""

    def initialize(self, ctx):
        self.model_yaml_config = ctx.model_yaml_config
        self.manifest = ctx.manifest
        properties = ctx.system_properties
        model_dir = properties.get("model_dir")
        self.max_length = ctx.model_yaml_config["handler"]["max_length"]
        self.mode = ctx.model_yaml_config["handler"]["mode"]
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self.model = T5ForConditionalGeneration.from_pretrained(model_dir).eval()
        if "pt2" in self.model_yaml_config:
            pt2_value = self.model_yaml_config["pt2"]["compile"]
            if pt2_value["enable"]:
                compile_options = {key: value for key, value in pt2_value.items() if key != "enable"}
                self.model.encoder = torch.compile(self.model.encoder, **compile_options)
                logger.info("Compiled model with %s", compile_options)
        self.initialized = True

    @timed
    def preprocess(self, requests):
        texts = []
        for data in requests:
            input_text = data.get("data") or data.get("body")
            if isinstance(input_text, (bytes, bytearray)):
                input_text = input_text.decode("utf-8")
            texts.append(f"{self.mode}: {input_text['text']}" if isinstance(input_text, dict) else input_text)
        return self.tokenizer(texts, padding=True, return_tensors="pt")

    @timed
    def inference(self, data):
        ids, mask = data["input_ids"], data["attention_mask"]
        with torch.no_grad():
            return self.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=self.max_length, do_sample=False
            )

    @timed
    def postprocess(self, inference_output):
        texts = self.tokenizer.batch_decode(inference_output, skip_special_tokens=True)
        return [{"text": text} for text in texts]
