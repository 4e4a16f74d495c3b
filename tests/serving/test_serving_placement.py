"""Which devices and threads workers get, on machines that the tests describe."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from model_server.config.resolve import ModelSettings
from model_server.errors import WorkersFailed
from model_server.serving import placement
from model_server.serving.placement import Assignment, Gpu, Placement, available_cores, detect_gpus

ON_GPU = ModelSettings(device_type="gpu")
ON_CPU = ModelSettings(device_type="cpu")

TWO_GPUS = """\
0, GPU-8932f937-d72c-4106-c12f-20bd9faed9f6, 15360
1, GPU-1a2b3c4d-0000-4106-c12f-20bd9faed9f6, 81000
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a program of that name on an otherwise empty PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def install(listing: str, tail: str = "exit 0") -> None:
        (tmp_path / "listing").write_text(listing)
        program = tmp_path / "nvidia-smi"
        program.write_text(f'#!/bin/sh\n/bin/cat "{tmp_path}/listing"\n{tail}\n')
        program.chmod(0o755)

    return install


def settings(**changes: Any) -> ModelSettings:
    return dataclasses.replace(ON_GPU, **changes)


def machine(gpus: int, cores: int = 8, free_memory_mib: tuple[int, ...] = ()) -> Placement:
    memory = free_memory_mib or (0,) * gpus
    return Placement([Gpu(number, str(number), memory[number]) for number in range(gpus)], cores)


# --- finding devices ---


def test_no_driver_no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert detect_gpus({}) == ()


def test_all_gpus_of_the_machine(nvidia_smi: Any) -> None:
    nvidia_smi(TWO_GPUS)
    assert detect_gpus({}) == (Gpu(0, "0", 15360), Gpu(1, "1", 81000))


@pytest.mark.parametrize(
    ("listing", "found"),
    [
        ("", ()),
        ("No devices were found\n", ()),
        ("Unable to determine the device handle for GPU0000:01:00.0: Unknown Error\n" + TWO_GPUS, (0, 1)),
        (TWO_GPUS.replace("0, GPU", "[Unknown Error], GPU"), (1,)),
        (TWO_GPUS.replace("15360", "[N/A]"), (0, 1)),
        ("0\n1, GPU-x\n", (0, 1)),
        ("\n\n" + TWO_GPUS + "\n", (0, 1)),
    ],
)
def test_broken_rows_are_left_out(nvidia_smi: Any, listing: str, found: tuple[int, ...]) -> None:
    nvidia_smi(listing)
    assert tuple(gpu.number for gpu in detect_gpus({})) == found


def test_unknown_memory_counts_as_none(nvidia_smi: Any) -> None:
    nvidia_smi(TWO_GPUS.replace("15360", "[N/A]"))
    assert [gpu.free_memory_mib for gpu in detect_gpus({})] == [0, 81000]


def test_a_driver_in_trouble_leaves_the_cpu(nvidia_smi: Any, caplog: pytest.LogCaptureFixture) -> None:
    nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the driver\n", tail="exit 9")
    assert detect_gpus({}) == ()
    assert "served on the CPU" in caplog.text


def test_a_driver_that_hangs_leaves_the_cpu(
    nvidia_smi: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(placement, "_DETECTION_TIMEOUT_S", 0.1)
    nvidia_smi(TWO_GPUS, tail="exec /bin/sleep 30")
    assert detect_gpus({}) == ()
    assert "timed out" in caplog.text


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0,1", [("0", 15360), ("1", 81000)]),
        ("1", [("1", 81000)]),
        ("1,0", [("1", 81000), ("0", 15360)]),
        (" 1 , 0 ", [("1", 81000), ("0", 15360)]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,7,1", [("0", 15360)]),  # CUDA ignores what follows an unknown device
        ("0,-1,1", [("0", 15360)]),
        ("GPU-1a2b3c4d-0000-4106-c12f-20bd9faed9f6", [("GPU-1a2b3c4d-0000-4106-c12f-20bd9faed9f6", 81000)]),
        ("GPU-8932f937", [("GPU-8932f937", 15360)]),
        ("GPU-ffffffff", []),
        ("MIG-41b3359c-e721-56e5-8009-12e5797ed514", [("MIG-41b3359c-e721-56e5-8009-12e5797ed514", 0)]),
        ("MIG-GPU-8932f937/1/0,1", [("MIG-GPU-8932f937/1/0", 0), ("1", 81000)]),
    ],
)
def test_the_servers_own_list_of_visible_devices(
    nvidia_smi: Any, visible: str, expected: list[tuple[str, int]]
) -> None:
    nvidia_smi(TWO_GPUS)
    gpus = detect_gpus({"CUDA_VISIBLE_DEVICES": visible})
    assert [(gpu.visible_as, gpu.free_memory_mib) for gpu in gpus] == expected
    assert [gpu.number for gpu in gpus] == list(range(len(expected)))


def test_available_cores_are_those_of_this_process() -> None:
    assert available_cores() == len(os.sched_getaffinity(0))


# --- assigning them ---


def numbers(assignment: Assignment) -> list[int]:
    return [gpu.number for gpu in assignment.gpus]


@pytest.mark.parametrize("gpus", [1, 4, 8])
def test_workers_are_spread_evenly(gpus: int) -> None:
    place = machine(gpus)
    taken = [numbers(place.reserve(ON_GPU))[0] for _ in range(3 * gpus)]
    assert [taken.count(number) for number in range(gpus)] == [3] * gpus


def test_without_gpus_everything_runs_on_the_cpu() -> None:
    assignment = machine(0).reserve(ON_GPU)
    assert (assignment.gpus, assignment.gpu_id, assignment.label) == ((), None, "cpu")


def test_a_cpu_model_uses_no_gpu() -> None:
    assert machine(2).reserve(ON_CPU) == Assignment()


def test_free_memory_decides_between_equally_used_devices() -> None:
    place = machine(3, free_memory_mib=(10, 30, 20))
    assert [numbers(place.reserve(ON_GPU)) for _ in range(4)] == [[1], [2], [0], [1]]


def test_a_device_that_is_given_back_is_next() -> None:
    place = machine(4)
    reserved = [place.reserve(ON_GPU) for _ in range(4)]
    place.release(reserved[2])
    assert numbers(place.reserve(ON_GPU)) == [2]


def test_models_share_one_count() -> None:
    place = machine(2)
    place.reserve(settings(device_ids=(0,)))
    assert numbers(place.reserve(ON_GPU)) == [1]


@pytest.mark.parametrize(("device_ids", "expected"), [((1,), [[1], [1]]), ((3, 1), [[1], [3]]), ((0, 2), [[0], [2]])])
def test_device_ids_are_the_only_candidates(device_ids: tuple[int, ...], expected: list[list[int]]) -> None:
    place = machine(4)
    assert [numbers(place.reserve(settings(device_ids=device_ids))) for _ in range(2)] == expected


def test_parallel_level_takes_that_many_devices() -> None:
    place = machine(4)
    parallel = settings(parallel_type="pp", parallel_level=2)
    first, second = place.reserve(parallel), place.reserve(parallel)
    assert (numbers(first), numbers(second)) == ([0, 1], [2, 3])
    assert (first.gpu_id, first.label) == (0, "gpu:0,1")


def test_a_spread_model_takes_all_its_devices() -> None:
    assert numbers(machine(4).reserve(settings(model_parallel=True))) == [0, 1, 2, 3]
    assert numbers(machine(4).reserve(settings(model_parallel=True, device_ids=(1, 3)))) == [1, 3]


@pytest.mark.parametrize(("gpus", "device_ids", "level"), [(2, None, 3), (4, (0, 1), 3), (1, None, 2)])
def test_more_devices_than_there_are_is_an_error(gpus: int, device_ids: tuple[int, ...] | None, level: int) -> None:
    with pytest.raises(WorkersFailed, match=rf"^No enough gpu devices for model:m parallelLevel:{level}") as caught:
        machine(gpus).check("m", settings(parallel_level=level, device_ids=device_ids))
    assert caught.value.status == 500


@pytest.mark.parametrize(
    "fine", [settings(parallel_level=2), settings(), dataclasses.replace(ON_CPU, parallel_level=9)]
)
def test_what_fits_is_no_error(fine: ModelSettings) -> None:
    machine(2).check("m", fine)


def test_parallel_level_means_nothing_without_gpus() -> None:
    machine(0).check("m", settings(parallel_level=4))


# --- what the worker's environment says ---


def test_a_worker_sees_its_devices_under_the_servers_names() -> None:
    place = Placement([Gpu(0, "GPU-aaaa"), Gpu(1, "MIG-bbbb"), Gpu(2, "5")], cores=8)
    both = place.reserve(settings(parallel_level=2))
    assert place.environment(both, {})["CUDA_VISIBLE_DEVICES"] == "GPU-aaaa,MIG-bbbb"
    assert place.environment(place.reserve(ON_GPU), {})["CUDA_VISIBLE_DEVICES"] == "5"


def test_numbers_are_positions_in_the_servers_list() -> None:
    place = Placement([Gpu(4, "4"), Gpu(6, "6")], cores=8)
    assignment = place.reserve(settings(device_ids=(1,)))
    assert (assignment.label, assignment.gpu_id) == ("gpu:1", 0)
    assert place.environment(assignment, {})["CUDA_VISIBLE_DEVICES"] == "6"


def test_a_cpu_worker_sees_no_gpu() -> None:
    place = machine(2)
    assert place.environment(place.reserve(ON_CPU), {"CUDA_VISIBLE_DEVICES": "0,1"})["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(("cores", "workers", "threads"), [(8, 1, 8), (8, 2, 4), (8, 3, 2), (2, 4, 1), (1, 1, 1)])
def test_cpu_workers_share_the_cores(cores: int, workers: int, threads: int) -> None:
    place = machine(0, cores=cores)
    reserved = [place.reserve(ON_CPU) for _ in range(workers)]
    environment = place.environment(reserved[0], {})
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        assert environment[variable] == str(threads)


def test_threads_are_those_of_the_workers_that_are_left() -> None:
    place = machine(0, cores=8)
    first, second = place.reserve(ON_CPU), place.reserve(ON_CPU)
    place.release(second)
    assert place.environment(first, {})["OMP_NUM_THREADS"] == "8"


def test_threads_the_operator_chose_are_kept() -> None:
    place = machine(0, cores=8)
    environment = place.environment(place.reserve(ON_CPU), {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "5"})
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "3"
    assert environment["MKL_NUM_THREADS"] == "5"


def test_gpu_workers_do_not_take_cores_from_cpu_workers() -> None:
    place = machine(1, cores=8)
    place.reserve(ON_GPU)
    assert place.environment(place.reserve(ON_CPU), {})["OMP_NUM_THREADS"] == "8"
