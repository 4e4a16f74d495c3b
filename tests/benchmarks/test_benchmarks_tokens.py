"""The server is measured with tokens on: every kind of request carries one, and without it is an error."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.assets import Assets
from benchmarks.errors import BenchmarkError
from benchmarks.load import Target, closed_loop, open_loop
from benchmarks.modelserver import ManagedServer, ModelServer
from benchmarks.scenarios import target_of
from benchmarks.servers import Deployment
from benchmarks.workloads import Workload, echo, examples

# wrk sends one prepared request, or several that the script hands out in turn.
WORKLOADS = {"one body": echo(), "several bodies": Workload("echo", ["one", "two", "three"])}
WRONG = {"another token": "Bearer AAAA", "no token": None}


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    return Assets(tmp_path_factory.mktemp("assets"))


@pytest.fixture(scope="module")
def managed(assets: Assets) -> Iterator[ManagedServer]:
    with ModelServer().managed(Deployment("echo"), assets) as server:
        yield server


@pytest.fixture(params=WORKLOADS.values(), ids=list(WORKLOADS))
def target(managed: ManagedServer, request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    return target_of(managed.asked, request.param, tmp_path / "bodies")


needs_wrk = pytest.mark.skipif(
    shutil.which("wrk") is None, reason="the load generator wrk is not installed (apt-get install wrk)"
)


@needs_wrk
def test_load_carries_the_token(target: Target) -> None:
    result = closed_loop(target, 4, 1)
    assert result.errors == 0
    assert result.answers > 0


@needs_wrk
@pytest.mark.parametrize("authorization", WRONG.values(), ids=list(WRONG))
def test_load_without_the_token_has_only_errors(target: Target, authorization: str | None) -> None:
    result = closed_loop(replace(target, authorization=authorization), 4, 1)
    assert result.answers == 0
    assert result.errors > 0


def test_open_loop_carries_the_token(target: Target) -> None:
    assert open_loop(target, 50, 1)["errors"] == 0


@pytest.mark.parametrize("authorization", WRONG.values(), ids=list(WRONG))
def test_open_loop_without_the_token_has_only_errors(target: Target, authorization: str | None) -> None:
    assert open_loop(replace(target, authorization=authorization), 50, 1)["errors"] == 50


def test_answers_are_checked_with_the_token(managed: ManagedServer, assets: Assets) -> None:
    managed.asked.verify(examples(echo(), assets))


@pytest.mark.parametrize("authorization", WRONG.values(), ids=list(WRONG))
def test_run_ends_where_answers_are_refused(managed: ManagedServer, assets: Assets, authorization: str | None) -> None:
    with pytest.raises(BenchmarkError, match="gave no answer"):
        replace(managed.asked, authorization=authorization).verify(examples(echo(), assets))


def test_management_has_a_token_of_its_own(managed: ManagedServer) -> None:
    managed.list_models()
    assert managed.asked.authorization is not None
    with pytest.raises(BenchmarkError, match="InvalidKeyException"):
        replace(managed, authorization=managed.asked.authorization).list_models()


def test_metrics_are_read_without_a_token(managed: ManagedServer) -> None:
    assert b"# TYPE" in managed.scrape()
