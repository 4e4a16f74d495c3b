"""Fixtures for tests against the real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Server, Servers
from small_models import byte_level, minilm_dir, model_dirs, wordpiece  # noqa: F401 (fixtures)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    started = Servers(tmp_path)
    yield started
    started.close()


@pytest.fixture
def server(servers: Servers) -> Callable[..., Server]:
    """`server(models=["m.mar"], config={...}, args=[...])` starts one; after the test it is proven gone."""
    return servers.start


@pytest.fixture
def make_archive(servers: Servers) -> Callable[..., Path]:
    """`make_archive("m", handler_source, config={...})` packs `m.mar` into the store of this test's servers."""
    return servers.archives.pack


@pytest.fixture(scope="module")
def module_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The same for a whole module; for servers that its tests only read from."""
    started = Servers(tmp_path_factory.mktemp("servers"))
    yield started
    started.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A test that fails shows the logs of the servers it used."""
    report = yield
    if report.failed:
        for servers in getattr(item, "funcargs", {}).values():
            if isinstance(servers, Servers):
                report.sections += [(f"log of {server.folder.name}", server.log_text()) for server in servers.running]
    return report
