"""The archives that both servers are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from archiver.pack import PackRequest, pack

HANDLERS = Path(__file__).parent / "peer_handlers"


@dataclass(frozen=True)
class Archive:
    """`file` is the archive's name in the store, without its ending; `options`: more of `archiver.pack.PackRequest`."""

    name: str
    handler: str
    config: Mapping[str, Any] | None = None
    version: str = "1.0"
    file: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        return f"{self.file or self.name}.mar"

    def pack(self, store: Path, inputs: Path) -> None:
        """Packs into `store`, with files made in `inputs`, a folder of its own."""
        inputs.mkdir(parents=True)
        options = dict(self.options)
        if self.config is not None:
            options["config_file"] = str(inputs / "model-config.yaml")
            Path(options["config_file"]).write_text(yaml.safe_dump(dict(self.config)))
        store.mkdir(exist_ok=True)
        handler = str(HANDLERS / self.handler)
        packed = pack(PackRequest(self.name, self.version, handler, export_path=str(inputs), **options))
        packed.rename(store / self.file_name)


def pack_all(archives: Sequence[Archive], store: Path, inputs: Path) -> None:
    for archive in archives:
        archive.pack(store, inputs / archive.file_name)


def network_weights(folder: Path) -> Path:
    """Weights of `network.py` whose products are exact in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"linear.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "linear.bias": torch.tensor([0.5, -0.5])}
    torch.save(weights, folder / "network.pt")
    return folder / "network.pt"


_SEQUENCES = {
    # A worker of TorchServe has batchSize + 1 live sequences at most, whatever maxNumSequence says.
    "batchSize": 8,
    "maxBatchDelay": 10,
    "sequenceBatching": True,
    "sequenceMaxIdleMSec": 60_000,
    "maxSequenceJobQueueSize": 8,
}


def main_archives(inputs: Path) -> list[Archive]:
    """Loaded at start."""
    one_worker = {"minWorkers": 1, "maxWorkers": 1}
    return [
        Archive("mirror", "mirror.py", {**one_worker, "own": {"key": [1, "two"]}}),
        Archive("mirror", "mirror", version="2.0", file="mirror_2"),
        Archive("answers", "answers:answer"),
        Archive(
            "insights",
            "insights.py",
            one_worker,
            options={"serialized_file": str(network_weights(inputs)), "model_file": str(HANDLERS / "network.py")},
        ),
        Archive("batch", "batch", {**one_worker, "batchSize": 3, "maxBatchDelay": 20_000, "batchingPolicy": "fixed"}),
        Archive("streaming", "streaming", one_worker),
        Archive("sequence", "sequence", {**one_worker, **_SEQUENCES, "maxNumSequence": 16}),
        Archive("one_sequence", "sequence", {**one_worker, **_SEQUENCES, "maxNumSequence": 1}),
        Archive("continuous", "continuous", {**one_worker, "batchSize": 4, "continuousBatching": True}),
        Archive("asynchronous", "asynchronous", {**one_worker, "asyncCommunication": True}),
        Archive("ticket", "gated", {**one_worker, "useJobTicket": True}),
        Archive("ticket_2", "gated", {**one_worker, "useJobTicket": True}),
    ]


# Registered by the tests of the management API.
SPARE_ARCHIVES = (
    Archive("spare", "mirror", {"batchSize": 2}),
    Archive("spare", "mirror", version="2.0", file="spare_2"),
    Archive("broken", "broken"),
    Archive("steps", "steps.py"),
    Archive("totals", "totals.py", {"minWorkers": 1, "maxWorkers": 1, **_SEQUENCES, "maxNumSequence": 16}),
)
