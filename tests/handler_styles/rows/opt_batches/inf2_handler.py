import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from ts.torch_handler.base_handler import BaseHandler


class LLMHandler(BaseHandler):
    """The model was compiled for one batch size, which the front end's own key says."""

    def initialize(self, ctx):
        self.manifest = ctx.manifest
        model_dir = ctx.system_properties.get("model_dir")
        self.batch_size = ctx.model_yaml_config["batchSize"]
        self.max_length = ctx.model_yaml_config["handler"]["max_length"]
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
        self.initialized = True

    def preprocess(self, requests):
        input_text = []
        for req in requests:
            data = req.get("data") or req.get("body")
            input_text.append(data.decode("utf-8") if isinstance(data, (bytes, bytearray)) else data)
        self.num_requests = len(input_text)
        input_text += ["hello"] * (self.batch_size - len(input_text))
        return self.tokenizer(input_text, return_tensors="pt", padding=True)

    def inference(self, tokens):
        assert len(tokens["input_ids"]) == self.batch_size
        with torch.inference_mode():
            output = self.model.generate(**tokens, do_sample=False, max_new_tokens=self.max_length)
        return [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in output]

    def postprocess(self, inference_output):
        return inference_output[: self.num_requests]
