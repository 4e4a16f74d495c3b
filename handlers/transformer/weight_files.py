"""Which files of an archive hold the weights of a transformer."""

from __future__ import annotations

import os
from pathlib import Path

from handlers.documents import read_json_object
from handlers.errors import ModelLoadError

# Names under which transformers finds weights by itself, shards included.
STANDARD_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def find_weights(model_dir: Path, serialized_file: str | None) -> Path:
    """The file that the manifest names, or the first standard one there is; an index only with all of its shards.

    Raises:
        ModelLoadError: there is none, or an index that cannot be followed.
    """
    name = serialized_file or next((name for name in STANDARD_WEIGHTS if (model_dir / name).is_file()), None)
    if name is None:
        raise ModelLoadError("No model weights could be loaded: the archive names no --serialized-file")
    if not (model_dir / name).is_file():
        raise ModelLoadError(f"{name} is named in the manifest but is not in the archive")
    if name in STANDARD_WEIGHTS and name.endswith(".index.json"):
        _check_shards(model_dir / name)
    return model_dir / name


def _check_shards(index: Path) -> None:
    """transformers would read the files that an index names wherever they are."""
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelLoadError(f"{index.name} has no weight_map, which says which file holds which weight")
    for name in sorted(set(map(str, weight_map.values()))):
        if not Path(os.path.normpath(index.parent / name)).is_relative_to(os.path.normpath(index.parent)):
            raise ModelLoadError(f"{index.name} names {name!r}, which is outside the archive")
        if not (index.parent / name).is_file():
            raise ModelLoadError(f"{index.name} names {name}, which is not in the archive")
