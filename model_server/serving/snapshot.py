"""Snapshots: the state of the models in files, so that the next start finds what this one has served.

The files are TorchServe's: a config.properties with everything that is set, and `model_snapshot` with every version of
every model. Source: TorchServe 0.12, `org.pytorch.serve.snapshot`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from model_server import __version__
from model_server.config.model_snapshot import SnapshotModel
from model_server.config.properties import format_properties
from model_server.config.server import ServerConfig
from model_server.config.snapshot_files import SNAPSHOT_PYTHON, snapshot_files, snapshot_folder
from model_server.config.values import DEFAULT
from model_server.serving.model import Model
from model_server.serving.registry import Registry

log = logging.getLogger(__name__)

Kind = Literal["startup", "snapshot", "shutdown"]

# Every change writes one; a server that is scaled all day must not fill its disk with them.
KEPT_SNAPSHOTS = 100


class SnapshotWriter:
    """Writes one file after the other, off the event loop.

    The state here is the task that writes last and whether a change still waits for it; `request` changes both. A file
    that cannot be written is a warning in the log and nothing else.
    """

    def __init__(self, config: ServerConfig, registry: Registry) -> None:
        self._config = config
        self._registry = registry
        self._last: asyncio.Task[None] | None = None
        self._is_change_waiting = False

    def request(self, kind: Kind = "snapshot") -> None:
        """Has the state written soon; changes that come while one waits share its file."""
        if kind == "snapshot" and self._is_change_waiting:
            return
        self._is_change_waiting = self._is_change_waiting or kind == "snapshot"
        self._last = asyncio.create_task(self._write(kind, self._last), name=f"{kind} of the models")

    async def close(self) -> None:
        """Writes the state in which the server ends; nothing when it ends before its models were there."""
        if self._last is not None:
            self.request("shutdown")
            await self._last

    async def _write(self, kind: Kind, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        if kind == "snapshot":
            self._is_change_waiting = False
        models = capture(self._registry, self._config)
        try:
            await asyncio.to_thread(write_snapshot, self._config, kind, models)
        except OSError as error:
            text = "The %s of the models cannot be written to %s: %s"
            log.warning(text, kind, snapshot_folder(self._config.log_location), error.strerror or error)


def capture(registry: Registry, config: ServerConfig) -> list[SnapshotModel]:
    """Every version whose registration is certain, and those of an earlier snapshot that could not be registered."""
    certain = [model for model in registry if not model.is_provisional]
    served = [_capture_version(model, registry.get(model.identity.name) is model, config) for model in certain]
    known = {(model.name, model.version) for model in served}
    return served + [entry for entry in registry.unrestored if (entry.name, entry.version) not in known]


def _capture_version(model: Model, is_default: bool, config: ServerConfig) -> SnapshotModel:
    identity, settings = model.identity, model.lasting_settings
    mar_name = model.archive.downloaded.name if model.archive.downloaded else Path(identity.url).name
    return SnapshotModel(
        name=identity.name,
        version=identity.version,
        is_default=is_default,
        mar_name=mar_name,
        min_workers=settings.min_workers,
        max_workers=settings.max_workers,
        batch_size=settings.batch_size,
        max_batch_delay_ms=settings.max_batch_delay_ms,
        response_timeout_s=settings.response_timeout_s,
        startup_timeout_s=settings.startup_timeout_s,
        runtime=identity.runtime,
        parallel_level=settings.parallel_level,
        url=_own_place(model, mar_name, config.model_stores),
        handler=_own_handler(model, config),
    )


def _own_place(model: Model, mar_name: str, stores: Sequence[Path]) -> str | None:
    """Where a folder is that no store has under its name."""
    root = model.archive.root
    is_in_store = model.archive.owned is not None or any(root.is_relative_to(store / mar_name) for store in stores)
    return None if is_in_store else str(root)


def _own_handler(model: Model, config: ServerConfig) -> str | None:
    manifest = model.archive.manifest
    usual = (manifest and manifest.model.handler) or config.default_service_handler
    return None if model.identity.handler == usual else model.identity.handler


# --- in a thread ---


def write_snapshot(config: ServerConfig, kind: Kind, models: Sequence[SnapshotModel]) -> Path:
    """Writes one file, whole or not at all; only its owner may read it. Raises OSError."""
    folder = snapshot_folder(config.log_location)
    folder.mkdir(parents=True, exist_ok=True)
    files = snapshot_files(folder)
    path = folder / f"{_next_stamp(files)}-{kind}.cfg"
    text = f"#Saving snapshot\n#{time.strftime('%a %b %d %H:%M:%S %Z %Y')}\n"
    _write_whole(path, text + format_properties(_properties(config, path.name, models)))
    for old in [file for file in files if file.name.endswith("-snapshot.cfg")][:-KEPT_SNAPSHOTS]:
        old.unlink(missing_ok=True)
    return path


def _next_stamp(files: Sequence[Path]) -> str:
    """Local time, but later than every file that is there: a clock that was put back must not hide the newest state."""
    now = int(datetime.now().strftime("%Y%m%d%H%M%S%f")[:17])
    newest = int(files[-1].name[:17]) if files else 0
    return f"{max(now, newest + 1):017}"


def _properties(config: ServerConfig, name: str, models: Sequence[SnapshotModel]) -> dict[str, str]:
    given = {key: setting.text for key, setting in config.settings.items() if setting.origin != DEFAULT}
    if "python" in given:
        given[SNAPSHOT_PYTHON] = given.pop("python")
    notes = {"version": __version__, "tsConfigFile": str(config.config_file or "")}
    stores = ",".join(map(str, config.model_stores))
    return {**config.unknown_keys, **given, **notes, "model_store": stores, "model_snapshot": _document(name, models)}


def _document(name: str, models: Sequence[SnapshotModel]) -> str:
    versions: dict[str, dict[str, object]] = {}
    for model in models:
        versions.setdefault(model.name, {})[model.version] = model.to_json()
    created_ms = time.time_ns() // 1_000_000
    document = {"name": name, "modelCount": len(models), "created": created_ms, "models": versions}
    return json.dumps(document, indent=2, ensure_ascii=False)


def _write_whole(path: Path, text: str) -> None:
    descriptor, draft = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(draft).rename(path)
    except BaseException:
        Path(draft).unlink()
        raise
