import ast
import json
import logging
import os
from abc import ABC

import torch
from transformers import AutoTokenizer
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class TransformersTokenClassifierHandler(BaseHandler, ABC):
    """Archives from before model-config.yaml carry their settings as JSON, with numbers and flags as texts."""

    def __init__(self):
        super().__init__()
        self.initialized = False

    def initialize(self, ctx):
        self.manifest = ctx.manifest
        model_dir = ctx.system_properties.get("model_dir")
        model_pt_path = os.path.join(model_dir, self.manifest["model"]["serializedFile"])
        self.device = torch.device("cpu")
        with open(os.path.join(model_dir, "setup_config.json")) as setup_config_file:
            self.setup_config = json.load(setup_config_file)
        if self.setup_config["save_mode"] == "torchscript":
            self.model = torch.jit.load(model_pt_path, map_location=self.device)
        self.tokenizer = AutoTokenizer.from_pretrained(
            model_dir, do_lower_case=ast.literal_eval(self.setup_config["do_lower_case"])
        )
        self.model.eval()
        with open("index_to_name.json") as f:  # the model's folder is the current one
            self.mapping = json.load(f)
        self.initialized = True

    def preprocess(self, requests):
        texts = []
        for data in requests:
            text = data.get("data") or data.get("body")
            texts.append(text.decode("utf-8") if isinstance(text, (bytes, bytearray)) else text)
        max_length = int(self.setup_config["max_length"])
        return self.tokenizer(texts, max_length=max_length, padding="max_length", truncation=True, return_tensors="pt")

    def inference(self, batch):
        logits = self.model(batch["input_ids"], batch["attention_mask"])[0]
        label_list = self.mapping["label_list"].strip("][").split(", ")
        inferences = []
        for ids, row in zip(batch["input_ids"], logits.argmax(dim=2).tolist(), strict=True):
            tokens = self.tokenizer.convert_ids_to_tokens(ids)
            inferences.append([(token, label_list[index]) for token, index in zip(tokens, row, strict=True)])
        return inferences

    def postprocess(self, inference_output):
        return inference_output
