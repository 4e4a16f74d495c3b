"""Built-in handlers of TorchServe that are not there yet: their archives are accepted, loading them says so."""

from __future__ import annotations

from handlers.base import BaseHandler
from handlers.context import Context
from handlers.errors import ModelLoadError


class _NotYet(BaseHandler):
    name: str
    instead: str

    def initialize(self, context: Context) -> None:
        raise ModelLoadError(f"The handler {self.name} is not there yet; {self.instead}")


class DaliImageClassifier(_NotYet):
    name = "dali_image_classifier"
    instead = "image_classifier does the same on the CPU"


class VllmHandler(_NotYet):
    name = "vllm_handler"
    instead = "transformer_handler with mode text_generation serves language models"


class TrtLlmHandler(_NotYet):
    name = "trt_llm_handler"
    instead = "transformer_handler with mode text_generation serves language models"
