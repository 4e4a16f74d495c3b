"""How long this server takes to register a large model, beside one copy of the archive."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from archiver.pack import PackRequest, pack
from benchmarks.assets import MODELS
from benchmarks.modelserver import ManagedServer, ModelServer
from benchmarks.results import Measurement
from benchmarks.scenarios import Repetition
from benchmarks.servers import Deployment

_COPY = "cp"
# An archive that has just been written is not taken for settled, and its files are not shared.
_SETTLED_S = 2.5
_BLOCK_BYTES, _BLOCKS = 2**26, 16
_FORMATS = {"default": "archive", "no-archive": "folder"}
# One with code of its own, and one of ours: only the second may share its files with another model.
_HANDLERS = (str(MODELS / "length.py"), "transformer_handler")


@dataclass(frozen=True, slots=True)
class RegisterScenario:
    """Registrations without workers, each of them twice, under two names."""

    name: str = "register"
    title: str = "Registering a model of 1 GiB, and again under another name"
    headline: str = "registered_s"

    def measure(self, repetition: Repetition) -> Iterator[Measurement]:
        with ModelServer().managed(Deployment("echo"), repetition.assets) as server:
            weights = repetition.assets.folder / "weights.bin"
            _write_weights(weights, 1 if repetition.seconds == 1 else _BLOCKS)
            copy = server.store / "copy"
            values = _timed(partial(shutil.copyfile, weights, copy))
            copy.unlink()  # what fits into memory beside everything else is written several times as fast
            yield Measurement(self.name, _COPY, "", repetition.number, values)
            for handler in _HANDLERS:
                for archive_format in _FORMATS:
                    yield from self._register(server, handler, archive_format, weights, repetition)

    def _register(
        self, server: ManagedServer, handler: str, archive_format: str, weights: Path, repetition: Repetition
    ) -> Iterator[Measurement]:
        path = _pack(server.store, handler, archive_format, weights)
        kind = f"{_FORMATS[archive_format]}, {'built-in' if handler == _HANDLERS[1] else 'own'} handler"
        for name, case in (("one", kind), ("two", f"{kind}, again")):
            values = _timed(partial(server.register, path.name, name))
            yield Measurement(self.name, ModelServer.name, case, repetition.number, values, _COPY)
        for name in ("one", "two"):
            server.unregister(name)
        _remove(path)


def _write_weights(path: Path, blocks: int) -> None:
    """Random bytes, which no compression makes smaller."""
    block = os.urandom(_BLOCK_BYTES)
    with path.open("wb") as file:
        for _ in range(blocks):
            file.write(block)


def _pack(store: Path, handler: str, archive_format: str, weights: Path) -> Path:
    request = PackRequest(
        "large", "1.0", handler, serialized_file=str(weights), export_path=str(store), archive_format=archive_format
    )
    return pack(request)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _timed(work: Callable[[], object]) -> dict[str, float]:
    os.sync()  # what was written before must not be written now
    time.sleep(_SETTLED_S)
    began_s = time.perf_counter()
    work()
    return {"registered_s": time.perf_counter() - began_s}
