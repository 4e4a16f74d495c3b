import json
import logging
import os
import zipfile
from abc import ABC

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)
logger.info("Transformers version %s", transformers.__version__)

TORCH_DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


class TransformersSeqGeneration(BaseHandler, ABC):
    """A zipped checkpoint, spread by accelerate as setup_config.json says."""

    def __init__(self):
        super(TransformersSeqGeneration, self).__init__()  # noqa: UP008
        self.initialized = False

    def initialize(self, ctx):
        self.manifest = ctx.manifest
        properties = ctx.system_properties
        model_dir = properties.get("model_dir")
        with zipfile.ZipFile(model_dir + "/model.zip", "r") as zip_ref:
            zip_ref.extractall(model_dir + "/model")

        setup_config_path = os.path.join(model_dir, "setup_config.json")
        if os.path.isfile(setup_config_path):
            with open(setup_config_path) as setup_config_file:
                self.setup_config = json.load(setup_config_file)
        else:
            logger.warning("Missing the setup_config.json file.")

        self.model = AutoModelForCausalLM.from_pretrained(
            model_dir + "/model",
            low_cpu_mem_usage=self.setup_config["low_cpu_mem_usage"],
            device_map=self.setup_config["device_map"],
            offload_folder=self.setup_config["offload_folder"],
            dtype=TORCH_DTYPES[self.setup_config["torch_dtype"]],
        )
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir + "/model")
        self.tokenizer.padding_side = "left"
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.eval()
        logger.info("Transformer model from path %s loaded successfully", model_dir)
        self.initialized = True

    def preprocess(self, requests):
        texts = []
        for data in requests:
            text = data.get("data")
            if text is None:
                text = data.get("body")
            if isinstance(text, (bytes, bytearray)):
                text = text.decode("utf-8")
            texts.append(text)
        return self.tokenizer(texts, padding=True, add_special_tokens=True, return_tensors="pt")

    def inference(self, batch):
        self.batch_size = len(batch["input_ids"])
        return self.model.generate(
            **batch.to(self.model.device), do_sample=False, max_new_tokens=int(self.setup_config["max_length"])
        )

    def postprocess(self, outputs):
        texts = [self.tokenizer.decode(output, skip_special_tokens=True) for output in outputs]
        logger.info("Generated text: %s", texts)
        return texts
