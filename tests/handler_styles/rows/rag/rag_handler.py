import logging
from abc import ABC

import torch
from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class RAGHandler(BaseHandler, ABC):
    """Finds the passages next to a question and writes the prompt for a language model."""

    def __init__(self):
        super().__init__()
        self.vectorstore = None
        self.initialized = False

    def initialize(self, ctx: Context):
        settings = ctx.model_yaml_config["handler"]
        torch.manual_seed(int(settings["manual_seed"]))
        self.chunk_size = settings["chunk_size"]
        with open(settings["url_to_scrape"]) as page:
            words = page.read().split()
        step = self.chunk_size - settings["chunk_overlap"]
        self.chunks = [" ".join(words[start : start + self.chunk_size]) for start in range(0, len(words), step)]
        self.vectorstore = torch.stack([self.embed(chunk) for chunk in self.chunks])
        self.top_k = settings["topk"]
        self.initialized = True

    def embed(self, text):
        counts = torch.zeros(128)
        for character in text.lower():
            counts[ord(character) % 128] += 1
        return torch.nn.functional.normalize(counts, dim=0)

    def preprocess(self, requests):
        assert len(requests) == 1, "Expecting batch_size = 1"
        data = requests[0]
        query = data.get("data") or data.get("body")
        return query.decode("utf-8") if isinstance(query, (bytes, bytearray)) else query

    def inference(self, query):
        scores = self.vectorstore @ self.embed(query)
        found = [self.chunks[index] for index in scores.topk(self.top_k).indices.tolist()]
        return "Use the following context to answer.\n" + "\n".join(found) + f"\nQuestion: {query}\nAnswer:"

    def postprocess(self, output):
        return [output]
