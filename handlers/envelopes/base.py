"""What envelopes have in common: when the handler is called, and with which requests."""

from __future__ import annotations

import abc
import copy
import inspect
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, closing
from typing import Any

from handlers.context import Context
from handlers.envelopes.one_request import only_request
from handlers.errors import PredictionException

Entry = Callable[[Any, Context], Any]

# Yields what the handler returned, is sent the result that it stands for, and returns the answers.
Steps = Generator[Any, Any, Any]


class BaseEnvelope(abc.ABC):
    """One envelope around an entry point. Empty batches, empty results and descriptions pass untouched.

    Args:
        handle_fn: called with the unwrapped requests and the context; a coroutine function makes `handle` awaitable.

    Attributes:
        context: the context of this call.
    """

    def __init__(self, handle_fn: Entry) -> None:
        self._handle_fn = handle_fn
        self.context: Any = None

    @abc.abstractmethod
    def parse_input(self, data: list[dict[str, Any]]) -> Any:
        """Rows of a batch to what the handler gets.

        Raises:
            PredictionException: 400, saying what is missing or wrong.
        """

    @abc.abstractmethod
    def format_output(self, data: Any) -> Any:
        """What the handler returned to one answer per request."""

    def handle(self, data: Any, context: Context) -> Any:
        """One batch, from requests to answers; an awaitable of them where the handler returns one."""
        # What a call keeps between its steps is its own: calls of an asynchronous handler overlap.
        call = copy.copy(self)
        call.context = context
        untouched = not data or _is_description(context)
        return _run(call._untouched(data) if untouched else call._steps(data))

    def _untouched(self, data: Any) -> Steps:
        return (yield self._handle_fn(data, self.context))

    def _steps(self, data: list[dict[str, Any]]) -> Steps:
        results = yield self._handle_fn(self.parse_input(data), self.context)
        return self.format_output(results) if results else results


class RequestEnvelope(BaseEnvelope):
    """An envelope around a single request: of a batch each gets its own call of the handler, and its own answer."""

    def _steps(self, data: list[dict[str, Any]]) -> Steps:
        calls = [copy.copy(self) for _ in data]
        # All of them first: bad input must not cost its neighbours a run of the model.
        inputs = [call.parse_input([row]) for call, row in zip(calls, data, strict=True)]
        answers: list[Any] = []
        for index, (call, rows) in enumerate(zip(calls, inputs, strict=True)):
            with call.one_request(index):
                results = yield self._handle_fn(rows, self.context)
                if results is None:
                    raise PredictionException("Invalid model predict output. The handler returned nothing.", 503)
                answers += call.format_output(results)
        return answers

    def one_request(self, index: int) -> AbstractContextManager[None]:
        """Within it the context is about request `index` of the batch only."""
        return only_request(self.context, index)


def _is_description(context: Any) -> bool:
    """Asked for metadata, not for a prediction; `context` is None where a test has none."""
    return context is not None and context.get_request_header(0, "describe") == "True"


def _run(steps: Steps) -> Any:
    """The answers, or an awaitable of them from the first awaitable that the handler returns."""
    result = None
    try:
        while not inspect.isawaitable(result):
            result = steps.send(result)
    except StopIteration as end:
        return end.value
    return _run_on(steps, result)


async def _run_on(steps: Steps, pending: Awaitable[Any]) -> Any:
    with closing(steps):
        try:
            while True:
                pending = steps.send(await pending)
        except StopIteration as end:
            return end.value
