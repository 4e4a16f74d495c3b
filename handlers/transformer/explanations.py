"""Explanations of a batch of requests: refused where there are none, grouped by what they ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handlers.errors import PredictionException
from handlers.transformer.inputs import Item
from handlers.transformer.settings import Settings
from handlers.transformer.targets import explanation_options
from handlers.transformer.tasks.base import Task


def explain_items(task: Task[Any, Any], items: Sequence[Item]) -> list[dict[str, Any]]:
    """One explanation per item, in order.

    Raises:
        PredictionException: 400 where the archive has no explanations or a request asks for what cannot be.
    """
    check_explainable(task.settings, traced=task.network.traced)
    options = [explanation_options(item.options, task.settings.explanation) for item in items]
    explanations: list[dict[str, Any]] = [{}] * len(items)
    for group in dict.fromkeys(options):
        members = [index for index, one in enumerate(options) if one == group]
        explained = task.explain([items[index] for index in members], group)
        for index, explanation in zip(members, explained, strict=True):
            explanations[index] = explanation
    return explanations


def check_explainable(settings: Settings, traced: bool) -> None:
    if traced:
        raise PredictionException(
            "a TorchScript trace cannot be explained: it has no embedding layer to attribute to; "
            "archive the model with save_mode: pretrained",
            400,
        )
    if not settings.captum_explanation:
        raise PredictionException(
            "explanations are turned off for this model: set handler: {captum_explanation: true} in model-config.yaml",
            400,
        )
