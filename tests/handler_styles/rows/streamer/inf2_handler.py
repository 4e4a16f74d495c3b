import logging
from abc import ABC
from threading import Thread

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from ts.handler_utils.hf_batch_streamer import TextIteratorStreamerBatch
from ts.handler_utils.micro_batching import MicroBatching
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class LLMHandler(BaseHandler, ABC):
    """Streams to all requests of a micro batch at once; a partial micro batch is filled up for the model."""

    def __init__(self):
        super().__init__()
        self.initialized = False
        self.max_length = None
        self.tokenizer = None
        self.output_streamer = None
        # enable micro batching
        self.handle = MicroBatching(self)

    def initialize(self, ctx):
        self.manifest = ctx.manifest
        model_dir = ctx.system_properties.get("model_dir")
        settings = ctx.model_yaml_config.get("handler", {})
        micro_batching_parallelism = ctx.model_yaml_config.get("micro_batching", {}).get("parallelism", None)
        if micro_batching_parallelism:
            logger.info("Setting micro batching parallelism from model_config_yaml: %s", micro_batching_parallelism)
            self.handle.parallelism = micro_batching_parallelism
        self.handle.micro_batch_size = ctx.model_yaml_config.get("micro_batching", {}).get("micro_batch_size", 1)
        self.max_length = int(settings.get("max_length"))
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
        self.output_streamer = TextIteratorStreamerBatch(
            self.tokenizer, batch_size=self.handle.micro_batch_size, skip_special_tokens=True
        )
        self.initialized = True

    def preprocess(self, requests):
        input_text = []
        for req in requests:
            data = req.get("data") or req.get("body")
            if isinstance(data, (bytes, bytearray)):
                data = data.decode("utf-8")
            input_text.append(data.strip())
        # the model was compiled for full micro batches
        for _ in range(len(input_text), self.handle.micro_batch_size):
            input_text.append("the")
        return self.tokenizer(input_text, return_tensors="pt", padding=True), len(requests)

    def inference(self, inputs):
        tokens, length = inputs
        micro_batch_idx = self.handle.get_micro_batch_idx()
        micro_batch_req_id_map = self.get_micro_batch_req_id_map(micro_batch_idx)
        generation_kwargs = {**tokens, "streamer": self.output_streamer, "max_new_tokens": self.max_length}
        thread = Thread(target=self.generate, kwargs=generation_kwargs)
        thread.start()
        for new_text in self.output_streamer:
            texts = [each["text"] for each in new_text[:length]]
            send_intermediate_predict_response(
                texts, micro_batch_req_id_map, "Intermediate Prediction success", 200, self.context
            )
        thread.join()
        return [""] * length

    @torch.no_grad()
    def generate(self, **kwargs):
        self.model.generate(do_sample=False, pad_token_id=self.tokenizer.pad_token_id, **kwargs)

    def postprocess(self, inference_output):
        return inference_output

    def get_micro_batch_req_id_map(self, micro_batch_idx: int):
        """Position within the micro batch to the id of the request."""
        start_idx = micro_batch_idx * self.handle.micro_batch_size
        return {
            index: self.context.request_ids[batch_index]
            for index, batch_index in enumerate(range(start_idx, start_idx + self.handle.micro_batch_size))
            if batch_index in self.context.request_ids
        }
