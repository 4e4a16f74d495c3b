"""Prometheus text as TorchServe writes it, which dashboards and scripts match on.

Sources: the text format 0.0.4 of Prometheus; a comma after the last label, values with a decimal point in Java's form,
counters under their own name without `_total` or `_created`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from math import inf, isinf, isnan

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Sample:
    """One line. Labels in order; names and label names are valid in Prometheus."""

    name: str
    labels: Sequence[tuple[str, str]]
    value: float


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    type: str
    help: str
    samples: Sequence[Sample]


def write(families: Iterable[Family], names: frozenset[str] = frozenset()) -> str:
    """The document. With `names`, only samples of these names and the families they belong to."""
    return "".join(line for family in families for line in _family(family, names))


def _family(family: Family, names: frozenset[str]) -> Iterator[str]:
    samples = [sample for sample in family.samples if not names or sample.name in names]
    if names and not samples:
        return
    yield f"# HELP {family.name} {_escape(family.help, quote=False)}\n"
    yield f"# TYPE {family.name} {family.type}\n"
    for sample in samples:
        labels = "".join(f'{name}="{_escape(value)}",' for name, value in sample.labels)
        yield f"{sample.name}{'{' + labels + '}' if labels else ''} {java_double(sample.value)}\n"


@lru_cache(maxsize=4096)  # most values in the logs are hundredths of milliseconds
def java_double(value: float) -> str:
    """`Double.toString`: 3 is `3.0`, from 10 million on and below a thousandth with an exponent, as in `1.0E7`."""
    text = repr(float(value) + 0.0)  # -0.0 is 0.0: the two are one key of the cache
    if 1e-3 <= abs(value) < 1e7 or value == 0:
        return text
    if isnan(value):
        return "NaN"
    if isinf(value):
        return "+Inf" if value == inf else "-Inf"
    digits = Decimal(text).normalize()
    exponent = digits.adjusted()
    mantissa = format(digits.scaleb(-exponent), "f")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}E{exponent}"


def _escape(text: str, *, quote: bool = True) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text
