"""The whole way once: start the server, check its answers, load it with wrk, print the table, leave nothing behind."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **environment}
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="the load generator wrk is not installed (apt-get install wrk)")
def test_echo_is_measured_at_every_concurrency(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    finished = run("--quick", "--results", str(results), "echo", STARTED_BY=str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["case"] for line in lines] == ["c 1", "c 16", "c 64"]
    for line in lines:
        values = line["values"]
        assert values["errors"] == 0
        assert values["requests_per_s"] > 0
        assert 0 < values["p50_ms"] <= values["p95_ms"] <= values["p99_ms"]
        # The handler does less than HTTP does, and neither takes more than the time there is on all cores.
        assert 0 < values["worker_us"] < values["frontend_us"] < 1e6 / values["requests_per_s"] * (os.cpu_count() or 1)
    rows = [line for line in finished.stdout.splitlines() if line.startswith("| modelserver ")]
    assert [row.split(" | ")[1] for row in rows] == ["c 1", "c 16", "c 64"]
    assert processes_with(f"STARTED_BY={tmp_path}") == []


@pytest.mark.skipif(shutil.which("wrk") is None, reason="the load generator wrk is not installed (apt-get install wrk)")
def test_models_and_connections_are_measured(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    names = ["scale-models", "scale-connections"]
    finished = run("--quick", "--results", str(results), *names, STARTED_BY=str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["case"] for line in lines] == ["models: 1", "models: 100", "idle: 0", "idle: 1,000"]
    assert all(line["values"]["errors"] == 0 for line in lines)
    assert 0 < lines[1]["values"]["registered_ms"] < 1e4
    assert processes_with(f"STARTED_BY={tmp_path}") == []


def processes_with(variable: str) -> list[str]:
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if variable.encode() in environ.read_bytes().split(b"\0"):
                found.append((environ.parent / "cmdline").read_text())
    return found


def test_missing_load_generator_is_named(tmp_path: Path) -> None:
    finished = run("--quick", "echo", PATH=str(tmp_path))
    assert finished.returncode == 1
    assert finished.stderr == "Error: The load generator wrk is not installed: sudo apt-get install wrk\n"
    assert finished.stdout == ""


def test_unknown_scenario_is_refused_with_the_known_ones() -> None:
    finished = run("ehco")
    assert finished.returncode == 2
    assert "'ehco' is not one of 'echo', 'echo-batched'" in finished.stderr
