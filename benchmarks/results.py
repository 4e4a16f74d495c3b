"""Measurements, and the file that keeps them."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one repetition of one load, loop or start gave.

    Attributes:
        contender: a server, or the bare loop it is held against.
        case: the load, such as "c 16".
        values: by name; the names end in their units and are those of `tables.COLUMNS`.
        reference: the contender of the same repetition that ratios are taken to.
    """

    scenario: str
    contender: str
    case: str
    repetition: int
    values: Mapping[str, float]
    reference: str | None = None


class Recorder:
    """Keeps measurements, and appends each at once to a file of JSON lines.

    The state here is the list; a run that is broken off still has its tables.
    """

    def __init__(self, path: Path, machine: Mapping[str, str]) -> None:
        self.measurements: list[Measurement] = []
        self._path = path
        self.run = {"run": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **machine}

    def add(self, measurement: Measurement) -> None:
        self.measurements.append(measurement)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**self.run, **asdict(measurement)}) + "\n")
