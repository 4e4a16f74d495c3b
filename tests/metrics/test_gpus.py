"""What nvidia-smi says, and what becomes of it when it says something else, or nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from model_server.config.metrics_file import MetricsConfig
from model_server.metrics import gpus
from model_server.metrics.gpus import GpuReading, RecentGpus, read_gpus
from model_server.metrics.server_metrics import ServerMetrics
from model_server.metrics.system_watch import watch_system

Install = Callable[..., Path]


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a program of that name on an otherwise empty PATH; every start of it adds a line to the file returned."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def install(listing: bytes, before: str = "") -> Path:
        (tmp_path / "listing").write_bytes(listing)
        starts = tmp_path / "starts"
        program = tmp_path / "nvidia-smi"
        program.write_text(f'#!/bin/sh\necho >> "{starts}"\n{before}\n/bin/cat "{tmp_path}/listing"\n')
        program.chmod(0o755)
        return starts

    return install


def test_two_devices(nvidia_smi: Install) -> None:
    nvidia_smi(b"0, GPU-a1, 678, 15360, 3, 1\n1, GPU-b2, 0, 15360, 0, 0\n")
    assert read_gpus() == [GpuReading(0, "GPU-a1", 678, 15360, 3, 1), GpuReading(1, "GPU-b2", 0, 15360, 0, 0)]


def test_names() -> None:
    reading = GpuReading(1, "GPU-1a2b3c4d-0000", 0, 1, 0, 0)
    assert all(map(reading.is_called, ("1", "GPU-1a2b3c4d-0000", "GPU-1a2b")))
    assert not any(map(reading.is_called, ("0", "11", "", "GPU-1a2c", "MIG-1a2b")))


@pytest.mark.parametrize(
    ("listing", "found"),
    [
        (b"", []),
        (b"No devices were found\n", []),
        (b"0, GPU-a, [N/A], [N/A], 5, [Unknown Error]\n", [GpuReading(0, "GPU-a", None, None, 5, None)]),
        ("0, GPU-a, \u00b2, 1, 2, 3\n".encode(), [GpuReading(0, "GPU-a", None, 1, 2, 3)]),
        (b"\xff\xfe\n0, GPU-a, 1, 2, 3, 4\n", [GpuReading(0, "GPU-a", 1, 2, 3, 4)]),
        (b"0\n\n0, GPU-a, 1, 2\n", []),
        (b"-1, GPU-a, 1, 2, 3, 4\n", []),
    ],
)
def test_whatever_it_says_is_no_error(nvidia_smi: Install, listing: bytes, found: list[GpuReading]) -> None:
    nvidia_smi(listing)
    assert read_gpus() == found


def test_nobody_there(nvidia_smi: Install, caplog: pytest.LogCaptureFixture) -> None:
    assert read_gpus() == []
    nvidia_smi(b"", "exit 9")
    assert read_gpus() == []
    assert caplog.text.count("GPUs could not be measured") == 2


def test_however_many_ask_it_is_started_once(nvidia_smi: Install) -> None:
    starts = nvidia_smi(b"0, GPU-a, 1, 2, 3, 4\n")

    async def ask() -> None:
        recent = RecentGpus()
        for readings in await asyncio.gather(*(recent.read() for _ in range(20))):
            assert [reading.index for reading in readings] == [0]
        await recent.read()

    asyncio.run(ask())
    assert starts.read_text() == "\n"


def test_who_goes_away_while_it_hangs_starts_no_second_one(
    nvidia_smi: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And who stays is answered soon, and as soon as it has ended with what it says."""
    gate = tmp_path / "gate"
    starts = nvidia_smi(b"0, GPU-a, 1, 2, 3, 4\n", f'while [ ! -e "{gate}" ]; do /bin/sleep 0.01; done')
    monkeypatch.setattr(gpus, "_PATIENCE_S", 0.05)

    async def ask() -> None:
        recent = RecentGpus()
        for _ in range(5):
            asked = asyncio.create_task(recent.read())
            await asyncio.sleep(0)
            asked.cancel()
        assert list(await recent.read()) == []
        gate.touch()
        begun_s = time.monotonic()
        while not await recent.read():
            assert time.monotonic() - begun_s < 10

    asyncio.run(ask())
    assert starts.read_text() == "\n"


def test_what_goes_wrong_does_not_end_the_watch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def measure() -> list[object]:
        calls.append(None)
        raise ValueError("never seen before")

    monkeypatch.setattr("model_server.metrics.system_watch.measure_host", measure)
    caplog.set_level(logging.ERROR)

    async def watch() -> None:
        metrics = ServerMetrics(MetricsConfig(), "here", lambda *_: None)
        task = asyncio.create_task(watch_system(metrics, 0.01, []))
        while len(calls) < 3:
            await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()

    asyncio.run(watch())
    assert "never seen before" in caplog.text
