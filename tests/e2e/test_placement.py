"""Which devices and how many threads a worker gets, read from inside real workers; the devices are simulated."""

from __future__ import annotations

import os
import socket
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from servers import Server, eventually, together

Make = Callable[..., Path]
Start = Callable[..., Server]

# Every worker tells what it was given; the sleep spreads requests over all of them.
SEES = """
import os, time


def handle(data, context):
    if data is None:
        return
    time.sleep(0.3)
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    seen = {name: os.environ.get(name) for name in names}
    return [{**seen, "gpu_id": context.system_properties["gpu_id"], "pid": os.getpid()}] * len(data)
"""


def uuid_of(index: int) -> str:
    return f"GPU-{index:08d}-aaaa-bbbb-cccc-dddddddddddd"


@pytest.fixture
def devices(tmp_path: Path) -> Callable[..., dict[str, str | None]]:
    """Environment of a machine with so many GPUs; every second one has less free memory."""

    def make(count: int, visible: str | None = None) -> dict[str, str | None]:
        rows = "\n".join(f"{index}, {uuid_of(index)}, {20_000 - 100 * (index % 2)}" for index in range(count))
        usage = "\n".join(f"{index}, {uuid_of(index)}, {100 + index}, 400, {index}, 7" for index in range(count))
        return tool(tmp_path / f"bin-{count}", printing(rows), visible, printing(usage))

    return make


def printing(text: str) -> str:
    return f"cat <<'END'\n{text}\nEND\n"


def tool(folder: Path, script: str, visible: str | None = None, usage: str = "exit 9\n") -> dict[str, str | None]:
    """nvidia-smi; `script` runs when devices are listed, `usage` when it is asked what they do."""
    folder.mkdir()
    program = folder / "nvidia-smi"
    tail = "--format=csv,noheader,nounits"
    asked = "index,uuid,memory.used,memory.total,utilization.gpu,utilization.memory"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in\n"--query-gpu=index,uuid,memory.free {tail}")\n{script};;\n'
        f'"--query-gpu={asked} {tail}")\n{usage};;\n*) exit 9;;\nesac\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": visible}


def seen(server: Server, workers: int, name: str = "sees") -> list[dict[str, Any]]:
    """What each worker of the model sees, by worker id."""
    answers: dict[int, dict[str, Any]] = {}
    while len(answers) < workers:
        for answer in together(*[lambda: server.predict(name)] * workers):
            answers[answer.json()["pid"]] = answer.json()
    assert len(answers) == workers
    return [answers[worker["pid"]] for worker in server.describe(name)[0]["workers"]]


def visible(server: Server, workers: int, name: str = "sees") -> list[str]:
    return [worker["CUDA_VISIBLE_DEVICES"] for worker in seen(server, workers, name)]


@pytest.mark.parametrize(("count", "workers"), [(1, 1), (1, 2), (4, 4), (4, 6), (8, 8)])
def test_workers_are_spread_over_the_devices(
    server: Start, make_archive: Make, devices: Callable[..., Mapping[str, str | None]], count: int, workers: int
) -> None:
    make_archive("sees", SEES, config={"minWorkers": workers, "maxWorkers": workers})
    running = server(["sees.mar"], environment=devices(count))
    told = seen(running, workers)
    assert {worker["gpu_id"] for worker in told} == {0}, "its device is the first of those it sees"
    held = Counter(worker["CUDA_VISIBLE_DEVICES"] for worker in told)
    assert held.keys() == {str(index) for index in range(min(count, workers))}
    assert max(held.values()) - min(held.values()) <= 1
    description = running.describe("sees")[0]
    assert description["deviceType"] == "gpu"
    for worker, what in zip(description["workers"], told, strict=True):
        assert worker["gpu"] is True
        assert worker["device"] == f"gpu:{what['CUDA_VISIBLE_DEVICES']}"


def test_what_the_devices_do(
    server: Start, make_archive: Make, devices: Callable[..., Mapping[str, str | None]]
) -> None:
    """The text and the labels are TorchServe 0.12's; the server uses two of the machine's four devices."""
    make_archive("sees", SEES, config={"minWorkers": 2, "maxWorkers": 2})
    running = server(["sees.mar"], environment=devices(4, f"{uuid_of(3)},1"))
    # The number is the one that describe and `deviceIds` mean, the values are those of the machine's 3 and 1.
    expected = [
        f"gpuId::{number} utilization.gpu [%]::{index} % utilization.memory [%]::7 % "
        f"memory.used [MiB]::{100 + index} MiB"
        for number, index in ((0, 3), (1, 1))
    ]
    assert sorted(worker["gpuUsage"] for worker in running.describe("sees")[0]["workers"]) == expected
    text = eventually(lambda: "GPUUtilization{" in (text := metrics(running)) and text, "the devices are measured")
    samples = {line.split(" ")[0]: float(line.split(" ")[1]) for line in text.splitlines() if line.startswith("GPU")}
    host = f'Hostname="{socket.gethostname()}",'
    assert samples == {
        f'{name}{{Level="Host",DeviceId="{index}",{host}}}': value
        for index in (1, 3)
        for name, value in (
            ("GPUUtilization", index),
            ("GPUMemoryUsed", 100 + index),
            ("GPUMemoryUtilization", (100 + index) / 4),
        )
    }


def metrics(server: Server) -> str:
    return requests.get(f"{server.metrics}/metrics", timeout=30).text


def test_devices_that_do_not_tell_what_they_do(server: Start, make_archive: Make, tmp_path: Path) -> None:
    make_archive("sees", SEES)
    listed = printing(f"0, {uuid_of(0)}, 20000")
    unknown = "gpuId::0 utilization.gpu [%]::[N/A] utilization.memory [%]::[N/A] memory.used [MiB]::5 MiB"
    outputs = {
        "exit 1\n": "failed to obtained gpu usage",
        printing(f"0, {uuid_of(0)}, 5, 10, [N/A], [N/A]"): unknown,
    }
    for number, (usage, shown) in enumerate(outputs.items()):
        running = server(["sees.mar"], environment=tool(tmp_path / f"mute-{number}", listed, None, usage))
        assert running.describe("sees")[0]["workers"][0]["gpuUsage"] == shown
        assert running.predict("sees").status_code == 200


def test_without_devices_workers_share_the_cores(
    server: Start, make_archive: Make, devices: Callable[..., Mapping[str, str | None]]
) -> None:
    make_archive("sees", SEES, config={"minWorkers": 2, "maxWorkers": 2})
    running = server(["sees.mar"], environment=devices(0))
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    for worker in seen(running, 2):
        assert worker.pop("pid")
        assert worker == {
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "gpu_id": None,
        }
    assert running.describe("sees")[0]["deviceType"] == "cpu"
    assert running.describe("sees")[0]["workers"][0]["device"] == "cpu"


def test_one_worker_has_all_cores(server: Start, make_archive: Make) -> None:
    make_archive("sees", SEES)
    assert seen(server(["sees.mar"]), 1)[0]["OMP_NUM_THREADS"] == str(len(os.sched_getaffinity(0)))


def test_a_thread_count_of_the_operator_holds(server: Start, make_archive: Make) -> None:
    make_archive("sees", SEES, config={"minWorkers": 2, "maxWorkers": 2})
    running = server(["sees.mar"], environment={"OMP_NUM_THREADS": "7"})
    assert [worker["OMP_NUM_THREADS"] for worker in seen(running, 2)] == ["7", "7"]


def test_one_worker_per_device_unless_said_otherwise(
    server: Start, make_archive: Make, devices: Callable[..., Mapping[str, str | None]]
) -> None:
    make_archive("sees", SEES)
    assert sorted(visible(server(["sees.mar"], environment=devices(4)), 4)) == ["0", "1", "2", "3"]


def test_device_ids_are_honoured(
    server: Start, make_archive: Make, devices: Callable[..., Mapping[str, str | None]]
) -> None:
    make_archive("sees", SEES, config={"minWorkers": 2, "maxWorkers": 2, "deviceIds": [1, 3]})
    running = server(["sees.mar"], environment=devices(4))
    assert sorted(visible(running, 2)) == ["1", "3"]
    assert running.describe("sees")[0]["deviceIds"] == [1, 3]


def test_device_ids_that_are_not_there_are_ignored_with_a_warning(
    server: Start, make_archive: Make, devices: Callable[..., Mapping[str, str | None]]
) -> None:
    make_archive("sees", SEES, config={"minWorkers": 1, "deviceIds": [0, 9]})
    running = server(["sees.mar"], environment=devices(1))
    assert visible(running, 1) == ["0"]
    assert "deviceIds" not in running.describe("sees")[0]
    assert any("WARN" in line and "[0, 9]" in line for line in running.log_text().splitlines())


def test_models_avoid_each_others_devices(
    server: Start, make_archive: Make, devices: Callable[..., Mapping[str, str | None]]
) -> None:
    for name in ("one", "two", "three"):
        make_archive(name, SEES, config={"minWorkers": 1, "maxWorkers": 1})
    running = server(["one.mar", "two.mar", "three.mar"], environment=devices(4))
    taken = [visible(running, 1, name)[0] for name in ("one", "two", "three")]
    assert len(set(taken)) == 3
    # The two with more free memory are taken first.
    assert {"0", "2"} <= set(taken)


def test_a_device_is_free_again_when_its_worker_is_gone(
    server: Start, make_archive: Make, devices: Callable[..., Mapping[str, str | None]]
) -> None:
    make_archive("sees", SEES, config={"minWorkers": 2, "maxWorkers": 2})
    make_archive("later", SEES)
    running = server(["sees.mar"], environment=devices(2))
    for workers in (1, 2, 0):
        parameters = {"min_worker": workers, "synchronous": "true"}
        assert running.manage("PUT", "models/sees", params=parameters).status_code == 200
        assert len(set(visible(running, workers))) == workers
    assert running.register("later.mar", initial_workers=2).status_code == 200
    assert sorted(visible(running, 2, "later")) == ["0", "1"]


def test_a_restarted_worker_keeps_its_device(
    server: Start, make_archive: Make, devices: Callable[..., Mapping[str, str | None]]
) -> None:
    make_archive("sees", SEES, config={"minWorkers": 2, "maxWorkers": 2})
    running = server(["sees.mar"], environment=devices(2))
    before = visible(running, 2)
    os.kill(running.worker_pids("sees")[0], 9)
    running.predict("sees")
    running.wait_model_ready("sees", 2)
    assert visible(running, 2) == before


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("2,0", ["0", "2"]),
        (f"{uuid_of(3)},{uuid_of(1)}", [uuid_of(1), uuid_of(3)]),
        # CUDA takes the first characters of a UUID, too, and stops at the first device it does not know.
        (f"{uuid_of(1)[:12]},9,0", [uuid_of(1)[:12]]),
        ("", [""]),
        ("-1", [""]),
        ("MIG-11111111-2222-3333-4444-555555555555", ["MIG-11111111-2222-3333-4444-555555555555"]),
    ],
)
def test_the_servers_own_visible_devices_are_respected(
    server: Start,
    make_archive: Make,
    devices: Callable[..., Mapping[str, str | None]],
    names: str,
    expected: list[str],
) -> None:
    make_archive("sees", SEES)
    running = server(["sees.mar"], environment=devices(4, names))
    assert sorted(visible(running, len(expected))) == expected


def test_device_ids_count_within_the_visible_devices(
    server: Start, make_archive: Make, devices: Callable[..., Mapping[str, str | None]]
) -> None:
    make_archive("sees", SEES, config={"minWorkers": 1, "deviceIds": [1]})
    assert visible(server(["sees.mar"], environment=devices(4, "3,2,0")), 1) == ["2"]


def test_number_of_gpu_is_a_limit(
    server: Start, make_archive: Make, devices: Callable[..., Mapping[str, str | None]]
) -> None:
    make_archive("sees", SEES)
    running = server(["sees.mar"], {"number_of_gpu": 2}, environment=devices(8))
    assert sorted(visible(running, 2)) == ["0", "1"]


def test_device_type_cpu(server: Start, make_archive: Make, devices: Callable[..., Mapping[str, str | None]]) -> None:
    make_archive("sees", SEES, config={"deviceType": "cpu", "minWorkers": 1, "maxWorkers": 1})
    running = server(["sees.mar"], environment=devices(4))
    told = seen(running, 1)[0]
    assert (told["CUDA_VISIBLE_DEVICES"], told["gpu_id"]) == ("", None)
    assert running.describe("sees")[0]["workers"][0]["gpu"] is False


def test_device_type_gpu_without_devices_is_cpu_with_a_warning(server: Start, make_archive: Make) -> None:
    make_archive("sees", SEES, config={"deviceType": "gpu"})
    running = server(["sees.mar"])
    assert seen(running, 1)[0]["gpu_id"] is None
    assert "there is no GPU to use" in running.log_text()


def test_parallel_level_gives_a_worker_several_devices(
    server: Start, make_archive: Make, devices: Callable[..., Mapping[str, str | None]]
) -> None:
    make_archive("sees", SEES, config={"parallelType": "custom", "parallelLevel": 2, "minWorkers": 2, "maxWorkers": 2})
    running = server(["sees.mar"], environment=devices(4))
    pairs = [set(devices.split(",")) for devices in visible(running, 2)]
    assert all(len(pair) == 2 for pair in pairs)
    assert pairs[0] | pairs[1] == {"0", "1", "2", "3"}
    description = running.describe("sees")[0]
    assert (description["parallelType"], description["parallelLevel"]) == ("custom", 2)


def test_more_devices_than_there_are(
    server: Start, make_archive: Make, devices: Callable[..., Mapping[str, str | None]]
) -> None:
    make_archive("sees", SEES, config={"parallelType": "tp", "parallelLevel": 4, "minWorkers": 1})
    running = server(environment=devices(2))
    answer = running.register("sees.mar", initial_workers=1)
    assert answer.status_code == 500
    assert answer.json()["message"].startswith("No enough gpu devices for model:sees parallelLevel:4")
    assert running.model_names() == []
    assert running.unpacked() == []


def test_a_model_that_is_spread_sees_all_devices(
    server: Start, make_archive: Make, devices: Callable[..., Mapping[str, str | None]]
) -> None:
    make_archive("sees", SEES, config={"handler": {"model_parallel": True}})
    assert visible(server(["sees.mar"], environment=devices(4)), 1) == ["0,1,2,3"]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'Failed to initialize NVML' >&2\nexit 9\n", ["GPUs could not be listed"]),
        ("echo 'No devices were found'\n", []),
        ("echo 'Unable to determine the device handle for GPU 0000:01:00.0'\n", []),
    ],
)
def test_a_driver_in_trouble_means_cpu(
    server: Start, make_archive: Make, tmp_path: Path, script: str, told: list[str]
) -> None:
    make_archive("sees", SEES)
    running = server(["sees.mar"], environment=tool(tmp_path / "bin", script))
    assert seen(running, 1)[0]["gpu_id"] is None
    assert all(text in running.log_text() for text in told)
