import logging
import os

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class LlamaCppHandler(BaseHandler):
    """The weights lie outside the archive; an environment variable says where."""

    def __init__(self):
        super().__init__()
        self.initialized = False
        logger.info("Init done")

    def initialize(self, ctx):
        logger.info("Start initialize")
        model_path = os.environ["LLAMA2_Q4_MODEL"]
        seed = int(ctx.model_yaml_config["handler"]["manual_seed"])
        torch.manual_seed(seed)
        self.tokenizer = AutoTokenizer.from_pretrained(model_path)
        self.model = AutoModelForCausalLM.from_pretrained(model_path)
        self.initialized = True

    def preprocess(self, data):
        assert len(data) == 1, "llama-cpp-python is currently only supported with batch_size=1"
        return data[0].get("body")

    def inference(self, data):
        params = data["params"]
        tokens = self.tokenizer(data["prompt"], return_tensors="pt")
        limit = len(tokens["input_ids"][0]) + params["max_tokens"]
        result = self.model.generate(**tokens, do_sample=False, max_length=limit, pad_token_id=0)
        return self.tokenizer.decode(result[0][len(tokens["input_ids"][0]) :])

    def postprocess(self, output):
        return [output]
