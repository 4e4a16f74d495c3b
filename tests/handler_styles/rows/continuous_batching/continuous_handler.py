import logging
import types
from abc import ABC

import torch
from transformers import AutoTokenizer
from ts.context import Context
from ts.handler_utils.utils import import_class
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class BaseContinuousHandler(BaseHandler, ABC):
    """Steps every request of the batch by one token; new ones join at any time."""

    def initialize(self, ctx: Context):
        super_config = ctx.model_yaml_config["handler"]
        self.device = torch.device("cpu")
        model_dir = ctx.system_properties.get("model_dir")
        model_path = f"{model_dir}/{super_config['model_path']}"
        module_prefix = super_config.get("model_module_prefix", None)
        model_class = import_class(class_name=super_config["model_class_name"], module_prefix=module_prefix)
        tokenizer_class = import_class(class_name="AutoTokenizer", module_prefix="transformers")
        assert tokenizer_class is AutoTokenizer
        self.tokenizer = tokenizer_class.from_pretrained(model_path)
        self.model = model_class.from_pretrained(model_path).eval()
        self.max_new_tokens = int(super_config.get("max_new_tokens", 25))
        ctx.cache = {}
        self.initialized = True

    def preprocess(self, requests):
        prefill, decode = [], []
        for req_id, req_data in zip(self.context.request_ids.values(), requests, strict=False):
            if req_id not in self.context.cache:
                data = req_data.get("data") or req_data.get("body")
                prompt = data.get("prompt") if isinstance(data, dict) else data.decode("utf-8")
                max_new_tokens = data.get("max_new_tokens") if isinstance(data, dict) else self.max_new_tokens
                encoded = self.tokenizer(prompt, return_tensors="pt")["input_ids"]
                self.context.cache[req_id] = {
                    "stopping_criteria": self._create_stopping_criteria(req_id, max_new_tokens),
                    "encoded": encoded,
                    "prompt_length": encoded.shape[1],
                }
                prefill.append(req_id)
            else:
                decode.append(req_id)
        logger.info("prefill %s, decode %s", len(prefill), len(decode))
        return prefill, decode

    @torch.no_grad()
    def inference(self, data):
        prefill, decode = data
        result = {}
        for req_id in prefill + decode:
            cached = self.context.cache[req_id]
            token = self.model(cached["encoded"]).logits[:, -1].argmax(-1, keepdim=True)
            cached["encoded"] = torch.cat([cached["encoded"], token], dim=1)
            result[req_id] = {"text": self.tokenizer.decode(token[0]), "ids": cached["encoded"][0].tolist()}
        return [result[req_id] for req_id in self.context.request_ids.values()]

    def postprocess(self, data):
        self.context.stopping_criteria = [
            self.context.cache[req_id]["stopping_criteria"] for req_id in self.context.request_ids.values()
        ]
        return [each["text"] for each in data]

    def _create_stopping_criteria(self, req_id, max_new_tokens):
        class StoppingCriteria:
            def __init__(self, outer):
                self.context = outer.context
                self.counter = max_new_tokens

            def __call__(self, res):
                self.counter -= 1
                if self.counter == 0:
                    self.clean_up()
                    return True
                return False

            def clean_up(self):
                del self.context.cache[req_id]

        return StoppingCriteria(types.SimpleNamespace(context=self.context))
