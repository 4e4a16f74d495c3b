"""How text is generated: built-in defaults, those of the archive, those of the request, in that order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from handlers.scalars import as_flag, as_number, as_whole_number

# What a request may ask for at once; each is a row of the batch.
MAX_RETURN_SEQUENCES = 16
MAX_SEED = 2**63 - 1

# Logits are divided by the temperature: much below this they overflow.
MIN_TEMPERATURE = 0.001


@dataclass(frozen=True, slots=True)
class GenerationParameters:
    """Equal parameters share a batch. The defaults are the original handler's.

    Attributes:
        max_new_tokens: at most so many tokens are added to the prompt.
        seed: makes sampling reproducible; None takes the process' random state.
    """

    max_new_tokens: int
    do_sample: bool = True
    temperature: float = 1.0
    top_p: float = 0.95
    top_k: int = 60
    repetition_penalty: float = 1.0
    num_return_sequences: int = 1
    seed: int | None = None

    def updated(self, values: Mapping[str, Any]) -> GenerationParameters:
        """A copy with other values.

        Raises:
            ValueError: unknown name or value out of range, with what is allowed.
        """
        unknown = [name for name in values if name not in PARAMETERS]
        if unknown:
            raise ValueError(f"unknown generation parameter {unknown[0]!r}; known: {', '.join(PARAMETERS)}")
        changed = replace(self, **{name: _checked(name, value) for name, value in values.items()})
        if changed.num_return_sequences > 1 and not changed.do_sample:
            raise ValueError(f"num_return_sequences: {changed.num_return_sequences} needs do_sample: true")
        return changed

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `generate`; greedy search takes none of the sampling ones."""
        arguments: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": self.do_sample,
            "repetition_penalty": self.repetition_penalty,
            "num_return_sequences": self.num_return_sequences,
        }
        if self.do_sample:
            arguments |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return arguments


_CHECKS: dict[str, Callable[[object], Any]] = {
    "max_new_tokens": lambda value: as_whole_number(value, 1),
    "do_sample": as_flag,
    "temperature": lambda value: as_number(value, above=MIN_TEMPERATURE),
    "top_p": lambda value: as_number(value, above=0, at_most=1),
    "top_k": lambda value: as_whole_number(value, 0),
    "repetition_penalty": lambda value: as_number(value, above=0),
    "num_return_sequences": lambda value: as_whole_number(value, 1, MAX_RETURN_SEQUENCES),
    "seed": lambda value: as_whole_number(value, 0, MAX_SEED),
}
PARAMETERS = tuple(_CHECKS)


def _checked(name: str, value: object) -> Any:
    try:
        return _CHECKS[name](value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
