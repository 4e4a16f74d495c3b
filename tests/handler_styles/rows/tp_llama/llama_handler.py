import json
import logging
import os
from abc import ABC

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class LlamaHandler(BaseHandler, ABC):
    """Continuous batching with the state of every request on the context, keyed by the request's id."""

    def __init__(self):
        super().__init__()
        self.max_new_tokens = None
        self.initialized = False

    def initialize(self, ctx):
        self.context = ctx
        self.manifest = ctx.manifest
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        model_dir = ctx.system_properties.get("model_dir")
        self.max_new_tokens = int(ctx.model_yaml_config["handler"]["max_new_tokens"])
        self.tokenizer = AutoTokenizer.from_pretrained(os.path.join(model_dir, "checkpoint"))
        self.model = AutoModelForCausalLM.from_pretrained(os.path.join(model_dir, "checkpoint"))
        self.model.eval()
        self.context.cache = {}
        self.initialized = True

    def preprocess(self, requests):
        self._clean_cache()
        for idx, row in enumerate(requests):
            req_id = self.context.get_request_id(idx)
            if req_id in self.context.cache:
                continue
            data = row.get("data") or row.get("body")
            data = json.loads(data)  # bytes of JSON
            prompts = self.tokenizer.encode(data["prompt"])
            limit = min(data.get("max_new_tokens", self.max_new_tokens), self.max_new_tokens)
            self.context.cache[req_id] = {"tokens": prompts, "end": len(prompts) + limit}
        return list(self.context.request_ids.values())

    @torch.no_grad()
    def inference(self, req_ids):
        results = []
        for req_id in req_ids:
            cached = self.context.cache[req_id]
            logits = self.model(torch.tensor([cached["tokens"]])).logits[0, -1]
            cached["tokens"].append(int(logits.argmax()))
            results.append({"req_id": req_id, "text": self.tokenizer.decode(cached["tokens"][-1:])})
        return results

    def postprocess(self, results):
        self.context.stopping_criteria = {index: self.criterion(each["req_id"]) for index, each in enumerate(results)}
        return [each["text"] for each in results]

    def criterion(self, req_id):
        cached = self.context.cache[req_id]
        return lambda result: len(cached["tokens"]) >= cached["end"]

    def _clean_cache(self):
        new_ids = set(self.context.request_ids.values())
        for req_id in list(self.context.cache.keys()):
            if req_id not in new_ids:
                del self.context.cache[req_id]
