"""What a server is asked, and how to tell that it answered rightly."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.assets import Assets
from benchmarks.texts import sentences

Model = Literal["echo", "length", "minilm"]
Input = str | bytes
Answer = object

# As many different requests as tell whether a server mixes up the answers within a batch or between batches.
_EXAMPLES = 64
# Batching changes the order of summation in single precision, and with it the last digits of probabilities.
_TOLERANCE = 1e-4
# Twice as far as MiniLM's probabilities in bfloat16 lie from those in float32; one pair of texts in twenty is closer.
_BFLOAT16_TOLERANCE = 1e-3
# In {"text": "..."} that is a body of 200 bytes.
_ECHO_CHARACTERS = 188


@dataclass(frozen=True, slots=True)
class Workload:
    """Inputs sent in order and over again to a model: texts, or raw bodies.

    Attributes:
        tolerance: how far numbers in its answers may lie from the right ones.
    """

    model: Model
    inputs: Sequence[Input]
    tolerance: float = _TOLERANCE


@dataclass(frozen=True, slots=True)
class Example:
    """An input with its right answer: the text itself, the number of bytes, or the probabilities of the classes."""

    input: Input
    expected: Answer
    tolerance: float = _TOLERANCE


def echo() -> Workload:
    return Workload("echo", [_echo_text(0)])


def classification() -> Workload:
    return Workload("minilm", sentences())


def classification_in_bfloat16() -> Workload:
    return Workload("minilm", sentences(), _BFLOAT16_TOLERANCE)


def payload(size_bytes: int) -> Workload:
    return Workload("length", [b"x" * size_bytes])


def examples(workload: Workload, assets: Assets) -> list[Example]:
    """What to ask before the load, all at once."""
    if workload.model == "length":
        return [Example(body, len(body)) for body in workload.inputs]
    return [replace(example, tolerance=workload.tolerance) for example in examples_of(workload.model, assets)]


def examples_of(model: Model, assets: Assets) -> list[Example]:
    """Small ones, whatever the load will be."""
    match model:
        case "echo":
            return [Example(text, text) for text in map(_echo_text, range(_EXAMPLES))]
        case "length":
            return [Example(b"x" * size, size) for size in (1, 1000)]
        case "minilm":
            return [Example(text, expected) for text, expected in assets.minilm_answers.items()]


def is_right(answer: Answer, expected: Answer, tolerance: float = _TOLERANCE) -> bool:
    if isinstance(expected, list) and isinstance(answer, list) and len(answer) == len(expected):
        return all(abs(one - other) <= tolerance for one, other in zip(answer, expected, strict=True))
    return answer == expected


def _echo_text(number: int) -> str:
    return f"{number} {'It is a long way to the river. ' * 7}"[:_ECHO_CHARACTERS]
