"""Handlers of TorchServe that are not there yet: their archives are accepted, loading them says so."""

from __future__ import annotations

from typing import Any, NoReturn

from handlers.base import BaseHandler
from handlers.context import Context
from handlers.errors import ModelLoadError


class _NotYet(BaseHandler):
    name: str
    instead: str

    def initialize(self, context: Context) -> None:
        raise ModelLoadError(f"The handler {self.name} is not there yet; {self.instead}")


_SPREAD = "transformer_handler with model_parallel: true spreads a language model over the devices of one machine"


class DaliHandler(_NotYet):
    name = "dali_handler"
    instead = "derive from vision_handler, which decodes on the CPU"


class DaliImageClassifier(_NotYet):
    name = "dali_image_classifier"
    instead = "image_classifier does the same on the CPU"


class VllmHandler(_NotYet):
    name = "vllm_handler"
    instead = "transformer_handler with mode text_generation serves language models"


class TrtLlmHandler(_NotYet):
    name = "trt_llm_handler"
    instead = "transformer_handler with mode text_generation serves language models"


class PippyHandler(_NotYet):
    name = "base_pippy_handler"
    instead = _SPREAD


class DeepSpeedHandler(_NotYet):
    name = "base_deepspeed_handler"
    instead = _SPREAD


def get_pipeline_driver(model: Any, world_size: int, ctx: Context) -> NoReturn:
    raise ModelLoadError(f"Pipelines of PiPPy are not there yet; {_SPREAD}")


def get_ds_engine(model: Any, ctx: Context) -> NoReturn:
    raise ModelLoadError(f"Engines of DeepSpeed are not there yet; {_SPREAD}")
