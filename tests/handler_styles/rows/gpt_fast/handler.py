import json
import logging
import os

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from ts.context import Context
from ts.handler_utils.timer import timed
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class GptHandler(BaseHandler):
    """Writes one token after the other; streams them where model-config.yaml says so."""

    def __init__(self):
        super().__init__()
        self.local_rank = int(os.getenv("LOCAL_RANK", "0"))
        self.stream = False

    def initialize(self, ctx: Context):
        self.context = ctx
        self.model_yaml_config = ctx.model_yaml_config
        settings = ctx.model_yaml_config["handler"]
        checkpoint = settings["converted_ckpt_dir"]
        self.device = torch.device("cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint).to(self.device).eval()
        self.stream = settings.get("stream", False)
        if settings.get("compile", False):
            self.model.forward = torch.compile(self.model.forward, backend="eager")
        self.initialized = True

    @timed
    def preprocess(self, requests):
        assert len(requests) == 1, "GPT fast is currently only supported with batch_size=1"
        req_data = requests[0]
        input_data = req_data.get("data") or req_data.get("body")
        if isinstance(input_data, (bytes, bytearray)):
            input_data = input_data.decode("utf-8")
        if isinstance(input_data, str):
            input_data = json.loads(input_data)
        encoded = self.tokenizer(input_data["prompt"], return_tensors="pt")["input_ids"].to(self.device)
        return {"encoded": encoded, "max_new_tokens": input_data["max_new_tokens"]}

    @timed
    @torch.no_grad()
    def inference(self, input_data):
        tokens = input_data["encoded"]
        start = tokens.shape[1]
        for _ in range(input_data["max_new_tokens"]):
            next_token = self.model(tokens).logits[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, next_token], dim=1)
            if self.stream:
                text = self.tokenizer.decode(next_token[0])
                send_intermediate_predict_response(
                    [text], self.context.request_ids, "Intermediate Prediction success", 200, self.context
                )
        return "" if self.stream else self.tokenizer.decode(tokens[0, start:])

    @timed
    def postprocess(self, y):
        return [y]
