import json
import logging
import os

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from ts.handler_utils.timer import timed
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)
logging.basicConfig(level=logging.INFO)


class LlmHandler(BaseHandler):
    def __init__(self):
        super().__init__()
        self.initialized = False

    def initialize(self, context):
        self.context = context
        self.model_yaml_config = context.model_yaml_config
        properties = context.system_properties
        if not torch.cuda.is_available() or properties.get("gpu_id") is None:
            self.map_location = context.model_yaml_config.get("deviceType", "cpu")
        model_path = os.path.join(properties.get("model_dir"), os.environ["MODEL_NAME_LLM"])
        self.tokenizer = AutoTokenizer.from_pretrained(model_path)
        self.model = AutoModelForCausalLM.from_pretrained(model_path).to(self.map_location)
        self.initialized = True

    @timed
    def preprocess(self, requests):
        prompts = []
        for req in requests:
            data = req.get("data") or req.get("body")
            if isinstance(data, (bytes, bytearray)):
                data = data.decode("utf-8")
            if isinstance(data, str):
                data = json.loads(data)
            prompts.append((data["prompt"], data.get("max_new_tokens", 4)))
        return prompts

    @timed
    def inference(self, prompts):
        texts = []
        for prompt, max_new_tokens in prompts:
            tokens = self.tokenizer(prompt, return_tensors="pt")
            output = self.model.generate(**tokens, do_sample=False, max_new_tokens=max_new_tokens)
            texts.append(self.tokenizer.decode(output[0], skip_special_tokens=True))
        return texts

    @timed
    def postprocess(self, texts):
        logger.info("Generated %s texts", len(texts))
        return [{"text": text, "is_error": False} for text in texts]
