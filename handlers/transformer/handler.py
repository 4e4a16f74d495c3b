"""`transformer_handler`: any Hugging Face transformer, its task chosen by `handler: {mode: ...}`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from handlers.base import BaseHandler
from handlers.compile import compile_options
from handlers.context import Context
from handlers.timing import timed
from handlers.transformer.explanations import explain_items
from handlers.transformer.inputs import Item, Request, parse_request
from handlers.transformer.loading import load_network
from handlers.transformer.settings import load_settings
from handlers.transformer.tasks import TASKS
from handlers.transformer.tasks.base import LoadedModel, Task
from handlers.transformer.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests on their way through the steps: `encoded` comes from the task's `encode`, `output` from its `run`."""

    requests: list[Request]
    encoded: Any
    output: Any = None

    @property
    def items(self) -> list[Item]:
        return _items(self.requests)


class TransformerHandler(BaseHandler):
    """Predictions and explanations for the five tasks; see `Settings` for the keys and `inputs` for the requests.

    Attributes:
        task: what does the work.
    """

    length_batching = True
    batch_explanations = True

    def __init__(self) -> None:
        super().__init__()
        self.task: Task[Any, Any]

    def initialize(self, context: Context) -> None:
        # A worker is one thread; the tokenizers library would fork trouble with more.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._adopt(context)
        self.task = self._load_task(Path(context.system_properties["model_dir"]))
        options = compile_options(self.model_yaml_config.get("pt2"))
        if options is not None:
            self.task.compile(options)
        else:
            self.task.pack()
        network = self.task.network
        self.model = network.module if network.compiled is None else network.compiled
        self.initialized = True

    @timed
    def preprocess(self, data: Sequence[Any]) -> Batch:
        """Rows to one tokenized batch.

        Raises:
            PredictionException: 400 for a row that is no input of this task.
        """
        requests = [parse_request(row, self.task.pair) for row in data]
        return Batch(requests, self.task.encode(_items(requests)))

    @timed
    def inference(self, data: Batch, *args: Any, **kwargs: Any) -> Batch:
        output = self.task.run(data.encoded)
        self._count_tokens(data.encoded)
        return replace(data, output=output)

    @timed
    def postprocess(self, data: Batch) -> list[Any]:
        return _by_request(data.requests, self.task.answers(data.items, data.encoded, data.output))

    def explain_handle(self, data_preprocess: Batch, raw_data: Any) -> list[Any]:
        """One explanation per request, a list of them where the request was a list of texts."""
        return _by_request(data_preprocess.requests, explain_items(self.task, data_preprocess.items))

    def _count_tokens(self, encoded: Any) -> None:
        """Tells the server how much of what the model was given is padding: what batches of similar lengths save."""
        parts = self.task.parts(encoded)
        if (metrics := getattr(self.context, "metrics", None)) is not None:
            metrics.add_counter("modelserver_tokens_total", sum(part.token_count for part in parts))
            metrics.add_counter("modelserver_padding_tokens_total", sum(part.padding_count for part in parts))

    def _load_task(self, model_dir: Path) -> Task[Any, Any]:
        settings = load_settings(self.model_yaml_config.get("handler"), model_dir)
        serialized_file = (self.manifest or {}).get("model", {}).get("serializedFile")
        network = load_network(model_dir, serialized_file, settings, self.device or torch.device("cpu"))
        tokenizer = load_tokenizer(model_dir, settings)
        return TASKS[settings.mode](LoadedModel(network, tokenizer, settings, model_dir))


def _items(requests: Sequence[Request]) -> list[Item]:
    return [item for request in requests for item in request.items]


def _by_request(requests: Sequence[Request], answers: Sequence[Any]) -> list[Any]:
    remaining = iter(answers)
    return [request.answer([next(remaining) for _ in request.items]) for request in requests]
