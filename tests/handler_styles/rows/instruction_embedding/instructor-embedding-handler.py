import logging

import torch
from transformers import AutoModel, AutoTokenizer
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class InstructorEmbeddingHandler(BaseHandler):
    """One instruction with its sentence, or a list of such pairs; answers with their vectors."""

    def __init__(self):
        super().__init__()
        self.initialized = False
        self.model = None

    def initialize(self, context):
        properties = context.system_properties
        logger.info("Initializing Instructor Embedding model...")
        model_dir = properties.get("model_dir")
        self.device = torch.device("cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self.model = AutoModel.from_pretrained(model_dir).eval()
        self.initialized = True

    def handle(self, data, context):
        inputs = data[0].get("body").get("inputs")
        if isinstance(inputs[0], str):
            # single inference
            inputs = [inputs]
        return [self.inference(inputs)]

    def inference(self, data):
        encoded = self.tokenizer([" ".join(pair) for pair in data], padding=True, return_tensors="pt")
        with torch.no_grad():
            states = self.model(**encoded).last_hidden_state
        mask = encoded["attention_mask"][..., None]
        vectors = (states * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(vectors).tolist()
