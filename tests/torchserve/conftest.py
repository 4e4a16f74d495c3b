"""TorchServe and ours, side by side with the same archives."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pairs import Pair, side_by_side
from peer_archives import SPARE_ARCHIVES, main_archives, pack_all
from torchserve_install import Unavailable, torchserve_python


@pytest.fixture(scope="session")
def torchserve_installed() -> None:
    try:
        torchserve_python()
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def pair(torchserve_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both servers with every model of `main_archives`."""
    folder = tmp_path_factory.mktemp("side-by-side")
    archives = main_archives(folder / "weights")
    pack_all([*archives, *SPARE_ARCHIVES], folder / "store", folder / "inputs")
    with side_by_side(folder, folder / "store", [archive.file_name for archive in archives], {}) as running:
        yield running


@pytest.fixture
def torch_model_archiver(pair: Pair, tmp_path: Path) -> Callable[..., None]:
    """Runs `torch-model-archiver` with these options; what it makes lies in the model store."""

    def run(*options: str) -> None:
        # It deletes the folder TMPDIR/MODEL_NAME before it packs.
        command = [str(torchserve_python()), "-P", "-m", "model_archiver.model_packaging"]
        command += ["--export-path", str(pair.model_store), *options]
        subprocess.run(command, env={"TMPDIR": str(tmp_path)}, check=True, timeout=60)

    return run
