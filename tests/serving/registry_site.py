"""A registry over a model store on disk, for tests with fake worker slots."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from serving_fakes import no_metrics

from model_server.config.server import ServerConfig
from model_server.serving.placement import Gpu, Placement
from model_server.serving.registry import Registry
from model_server.serving.starter import WorkerStarter
from model_server.serving.store import ModelStore


class Site:
    """A registry over a model store of folders and archives."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "model_store"
        self.temp = root / "temp"
        self.folder.mkdir()
        self.temp.mkdir()

    def registry(self, gpus: int = 0, **config: Any) -> Registry:
        server = ServerConfig(model_stores=(self.folder,), temp_dir=self.temp, **config)
        placement = Placement([Gpu(number, str(number)) for number in range(gpus)], cores=4)
        store = ModelStore([self.folder], self.temp, server.downloads)
        return Registry(server, store, placement, 4, no_metrics(), WorkerStarter(None))

    def pack(self, file: str, name: str = "m", version: str = "1.0", yaml: str | None = None, **model: str) -> str:
        """Writes an archive into the store; returns its url."""
        entry = {"modelName": name, "modelVersion": version, "handler": "handler.py", **model}
        if yaml is not None:
            entry["configFile"] = "settings.yaml"
        with zipfile.ZipFile(self.folder / file, "w") as archive:
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": entry}))
            archive.writestr("handler.py", "")
            if yaml is not None:
                archive.writestr("settings.yaml", yaml)
        return file

    @property
    def unpacked(self) -> int:
        """Archives in the store's private folder."""
        return sum(len(list(private.iterdir())) for private in self.temp.iterdir())
