"""TorchServe and ours, side by side with the same archives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from comparison import Endpoints, Pair
from peer_archives import SPARE_ARCHIVES, main_archives, pack_all
from servers import Server, together
from torchserve_install import Unavailable, torchserve_python
from torchserve_peer import TorchServe
from wire_exchange import Address


@pytest.fixture(scope="session")
def torchserve_installed() -> None:
    try:
        torchserve_python()
    except Unavailable as error:
        pytest.skip(str(error))


@contextmanager
def side_by_side(folder: Path, store: Path, models: list[str], config: dict[str, object]) -> Iterator[Pair]:
    theirs = TorchServe(folder / "theirs", store, models, config)
    ours = Server(folder / "ours", store, models, config, ("--enable-model-api",))
    with ExitStack() as running:
        running.callback(theirs.stop)
        running.callback(ours.stop)
        together(theirs.start, ours.start)
        yield Pair(
            Endpoints(theirs.inference, theirs.management),
            Endpoints(_address(ours.inference), _address(ours.management)),
        )


def _address(url: str) -> Address:
    host, _, port = url.removeprefix("http://").partition(":")
    return Address(host, int(port))


@pytest.fixture(scope="session")
def pair(torchserve_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both servers with every model of `main_archives`."""
    folder = tmp_path_factory.mktemp("side-by-side")
    archives = main_archives(folder / "weights")
    pack_all([*archives, *SPARE_ARCHIVES], folder / "store", folder / "inputs")
    with side_by_side(folder, folder / "store", [archive.file_name for archive in archives], {}) as running:
        yield running
