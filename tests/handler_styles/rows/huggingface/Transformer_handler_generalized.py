import ast
import json
import logging
import os
from abc import ABC

import torch
import transformers
from captum.attr import LayerIntegratedGradients
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)
logger.info("Transformers version %s", transformers.__version__)

MODEL_CLASSES = {
    "sequence_classification": AutoModelForSequenceClassification,
    "question_answering": AutoModelForQuestionAnswering,
    "text_generation": AutoModelForCausalLM,
}


class TransformersSeqClassifierHandler(BaseHandler, ABC):
    """One handler for several tasks, chosen by model-config.yaml."""

    def __init__(self):
        super(TransformersSeqClassifierHandler, self).__init__()  # noqa: UP008
        self.initialized = False

    def initialize(self, ctx):
        self.manifest = ctx.manifest
        properties = ctx.system_properties
        model_dir = properties.get("model_dir")
        assert os.path.isfile(os.path.join(model_dir, self.manifest["model"]["serializedFile"]))
        has_gpu = torch.cuda.is_available() and properties.get("gpu_id") is not None
        self.device = torch.device("cuda:" + str(properties.get("gpu_id")) if has_gpu else "cpu")

        self.setup_config = ctx.model_yaml_config["handler"]
        mode = self.setup_config["mode"]
        if self.setup_config["save_mode"] == "pretrained":
            self.model = MODEL_CLASSES[mode].from_pretrained(model_dir)
            self.model.to(self.device)
        else:
            logger.warning("Missing the checkpoint or state_dict.")

        if any(fname for fname in os.listdir(model_dir) if fname.startswith("vocab.") and os.path.isfile(fname)):
            self.tokenizer = AutoTokenizer.from_pretrained(
                model_dir, do_lower_case=self.setup_config.get("do_lower_case", False)
            )
        else:
            self.tokenizer = AutoTokenizer.from_pretrained(self.setup_config["model_name"])
        self.model.eval()

        mapping_file_path = os.path.join(model_dir, "index_to_name.json")
        if os.path.isfile(mapping_file_path):
            with open(mapping_file_path) as f:
                self.mapping = json.load(f)
        elif mode == "sequence_classification":
            logger.warning("Missing the index_to_name.json file.")
        self.initialized = True

    def preprocess(self, requests):
        ids_batch, mask_batch = [], []
        for data in requests:
            input_text = data.get("data")
            if input_text is None:
                input_text = data.get("body")
            if isinstance(input_text, (bytes, bytearray)):
                input_text = input_text.decode("utf-8")
            if self.setup_config["captum_explanation"] and self.setup_config["mode"] != "question_answering":
                input_text = ast.literal_eval(input_text)["text"]
            logger.info("Received text: '%s'", input_text)
            inputs = self.encode(input_text)
            ids_batch.append(inputs["input_ids"].to(self.device))
            mask_batch.append(inputs["attention_mask"].to(self.device))
        return torch.cat(ids_batch), torch.cat(mask_batch)

    def encode(self, input_text):
        arguments = {"add_special_tokens": True, "return_tensors": "pt", "truncation": True}
        if self.setup_config["mode"] == "text_generation":
            return self.tokenizer(input_text, **arguments)
        arguments.update(max_length=int(self.setup_config["max_length"]), padding="max_length")
        if self.setup_config["mode"] == "question_answering":
            question_context = ast.literal_eval(input_text)
            return self.tokenizer(question_context["question"], question_context["context"], **arguments)
        return self.tokenizer(input_text, **arguments)

    def inference(self, input_batch):
        ids, mask = input_batch
        mode = self.setup_config["mode"]
        if mode == "text_generation":
            outputs = self.model.generate(
                ids, attention_mask=mask, max_new_tokens=self.setup_config["max_length"], do_sample=False
            )
            return [self.tokenizer.decode(output, skip_special_tokens=True) for output in outputs]
        with torch.no_grad():
            outputs = self.model(ids, mask)
        if mode == "sequence_classification":
            print("This the output from the Seq classification model", outputs.logits)
            return [self.mapping[str(int(row.argmax()))] for row in outputs.logits]
        answers = []
        for tokens, start, end in zip(ids, outputs.start_logits, outputs.end_logits, strict=True):
            span = tokens[int(start.argmax()) : int(end.argmax()) + 1]
            answers.append(self.tokenizer.convert_tokens_to_string(self.tokenizer.convert_ids_to_tokens(span)))
        return answers

    def postprocess(self, inference_output):
        return inference_output

    def get_insights(self, input_batch, text, target):
        if isinstance(text, (bytes, bytearray)):
            text = text.decode("utf-8")
        text_target = ast.literal_eval(text)
        embedding = getattr(self.model, self.setup_config["embedding_name"]).embeddings
        self.lig = LayerIntegratedGradients(captum_sequence_forward, embedding)
        input_ids, ref_input_ids, attention_mask = construct_input_ref(text_target["text"], self.tokenizer, self.device)
        attributions, delta = self.lig.attribute(
            inputs=input_ids,
            baselines=ref_input_ids,
            target=text_target["target"],
            additional_forward_args=(attention_mask, 0, self.model),
            return_convergence_delta=True,
        )
        words = self.tokenizer.convert_ids_to_tokens(input_ids[0].tolist())
        importances = summarize_attributions(attributions).tolist()
        return [{"words": words, "importances": importances, "delta": delta[0].tolist()}]


def construct_input_ref(text, tokenizer, device):
    text_ids = tokenizer.encode(text, add_special_tokens=False)
    input_ids = [tokenizer.cls_token_id, *text_ids, tokenizer.sep_token_id]
    ref_ids = [tokenizer.cls_token_id] + [tokenizer.pad_token_id] * len(text_ids) + [tokenizer.sep_token_id]
    inputs = torch.tensor([input_ids], device=device)
    return inputs, torch.tensor([ref_ids], device=device), torch.ones_like(inputs)


def captum_sequence_forward(inputs, attention_mask=None, position=0, model=None):
    model.eval()
    model.zero_grad()
    return model(inputs, attention_mask=attention_mask)[position]


def summarize_attributions(attributions):
    attributions = attributions.sum(dim=-1).squeeze(0)
    return attributions / torch.norm(attributions)
