"""Fixtures: where the archives of a test module are made."""

from __future__ import annotations

import pytest
from servers import Servers
from style_workshop import Workshop


@pytest.fixture(scope="module")
def workshop(module_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Packs into the model store of this module's servers."""
    return Workshop(tmp_path_factory.mktemp("inputs"), module_servers.archives.folder)
