import logging
import os
from abc import ABC

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)

ipex_enabled = False
if os.environ.get("TS_IPEX_ENABLE", "false") == "true":
    try:
        import intel_extension_for_pytorch as ipex

        ipex_enabled = True
    except ImportError as error:
        logger.warning("IPEX is enabled but intel-extension-for-pytorch cannot be imported: %s", error)
        ipex = None


class IpexLLMHandler(BaseHandler, ABC):
    def initialize(self, ctx: Context):
        config = ctx.model_yaml_config["handler"]
        self.max_new_tokens = int(config.get("max_new_tokens", 8))
        self.batch_size = int(config.get("batch_size", 1))
        self.amp_enabled = config.get("quant_with_amp", False)
        self.tokenizer = AutoTokenizer.from_pretrained(config["model_name"])
        self.user_model = AutoModelForCausalLM.from_pretrained(config["model_name"]).eval()
        if ipex_enabled:
            self.user_model = ipex.llm.optimize(self.user_model)
        self.initialized = True

    def preprocess(self, requests):
        assert len(requests) <= self.batch_size
        texts = [(data.get("data") or data.get("body")).decode("utf-8") for data in requests]
        return [self.tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]

    def inference(self, input_batch):
        with torch.inference_mode(), torch.autocast("cpu", enabled=self.amp_enabled):
            return [
                self.user_model.generate(ids, do_sample=False, max_new_tokens=self.max_new_tokens)[0]
                for ids in input_batch
            ]

    def postprocess(self, outputs):
        return [{"text": self.tokenizer.decode(ids), "ipex": ipex_enabled} for ids in outputs]
