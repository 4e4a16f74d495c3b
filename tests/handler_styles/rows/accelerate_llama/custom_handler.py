import logging
from abc import ABC

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class LlamaHandler(BaseHandler, ABC):
    def __init__(self):
        super().__init__()
        self.max_length = None
        self.max_new_tokens = None
        self.tokenizer = None
        self.initialized = False

    def initialize(self, ctx: Context):
        model_dir = ctx.system_properties.get("model_dir")
        self.max_length = int(ctx.model_yaml_config["handler"]["max_length"])
        self.max_new_tokens = int(ctx.model_yaml_config["handler"]["max_new_tokens"])
        model_name = ctx.model_yaml_config["handler"]["model_name"]
        model_path = f"{model_dir}/{ctx.model_yaml_config['handler']['model_path']}"
        seed = int(ctx.model_yaml_config["handler"]["manual_seed"])
        torch.manual_seed(seed)
        logger.info("Model %s loading tokenizer", ctx.model_name)
        self.model = AutoModelForCausalLM.from_pretrained(model_path)
        self.tokenizer = AutoTokenizer.from_pretrained(model_path)
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "left"
        logger.info("Model %s loaded successfully", model_name)
        self.initialized = True

    def preprocess(self, requests):
        texts = [data.get("data") or data.get("body") for data in requests]
        texts = [text.decode("utf-8") if isinstance(text, (bytes, bytearray)) else text for text in texts]
        return self.tokenizer(texts, max_length=self.max_length, truncation=True, padding=True, return_tensors="pt")

    def inference(self, input_batch, *args, **kwargs):
        return self.model.generate(**input_batch, do_sample=False, max_new_tokens=self.max_new_tokens)

    def postprocess(self, inference_output):
        return self.tokenizer.batch_decode(inference_output, skip_special_tokens=True)
