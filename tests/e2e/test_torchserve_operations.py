"""Behaviours that TorchServe's own tests check and that are missed most easily, as far as running a server goes.

The numbers are those of the contract with TorchServe, section 12; the tests here carry theirs in their docstrings. What
concerns handlers and models is in test_torchserve_behaviours. The others are proven elsewhere:

     2  cli/test_launcher: test_stop_sends_sigterm, test_nothing_to_stop; cli/test_aliases:
        test_torchserve_starts_and_stops_a_server
    13  test_registration_urls: test_the_life_of_a_model_from_the_web, test_the_life_of_a_model_from_a_file,
        test_the_same_local_archive_twice_is_a_conflict_and_stays
    14  test_registration_urls: test_the_life_of_a_model_from_a_file, test_the_steps_of_the_check_are_torchserves
    15  test_registration_urls: test_the_steps_of_the_check_are_torchserves (16 and 17 as well)
    30  api/test_auth, test_tokens: test_each_port_takes_its_own_key_alone, test_headers_that_open_nothing,
        test_renewal, test_tokens_that_the_environment_turns_on_and_that_expire
    31  test_grpc_life: test_predictions_need_the_inference_key, test_management_needs_the_management_key
    32  test_grpc: test_what_the_server_refuses_is_internal, test_errors_of_management
    33  test_grpc: test_one_message_for_each_part, test_sequences_are_kept_apart
    42  test_snapshots: test_an_archive_that_has_become_junk_does_not_stop_the_start,
        test_an_archive_that_is_gone_stops_the_start
    43  test_snapshots: test_a_server_that_is_told_nothing_comes_back_as_it_was,
        test_without_snapshots_nothing_is_written_or_read
        config/test_model_snapshot: test_one_written_by_hand_has_torchserves_defaults (without runtimeType)
    44  test_log_files: test_five_files_are_there_after_the_start, test_places_of_logs_and_metrics,
        test_a_place_that_cannot_be_written_is_one_warning
    46  torchserve/test_torchserve_metrics, torchserve/test_torchserve_logs: test_metric_lines
        test_metrics: test_handlers_record_metrics_of_every_type, test_the_filter_leaves_only_what_it_names,
        test_in_prometheus_mode_the_logs_stay_empty
        metrics/test_server_metrics: test_in_prometheus_mode_nothing_is_logged_and_in_legacy_mode_all_but_three
    50  api/test_openapi: test_every_operation_is_there (all three ports)
    53  test_tls, config/test_tls_settings, torchserve/test_torchserve_tls
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from servers import MIRROR, Server, error_of, eventually

from model_server.pid_file import PidFile

SYSTEM_METRICS = [
    *("CPUUtilization", "MemoryUsed", "MemoryAvailable", "MemoryUtilization"),
    *("DiskUsage", "DiskUtilization", "DiskAvailable"),
]


def command(folder: Path, *words: str) -> subprocess.Popen[str]:
    """`modelserver` as a script calls it, with a pipe for what it prints."""
    environment = {**os.environ, "TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "model_server.cli", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def run(folder: Path, *words: str) -> tuple[int, str]:
    with command(folder, *words) as process:
        out, _ = process.communicate(timeout=60)
    return process.returncode, out


def site(folder: Path) -> list[str]:
    """The flags of a server on free ports in a folder of its own."""
    (folder / "store").mkdir()
    ports = "".join(f"{api}_address=http://127.0.0.1:0\n" for api in ("inference", "management", "metrics"))
    (folder / "free.properties").write_text(f"{ports}grpc_inference_port=0\ngrpc_management_port=0\n")
    return ["--start", "--ncs", "--model-store", "store", "--ts-config", "free.properties"]


def test_whoever_reads_what_the_launcher_prints_learns_when_the_server_is_up(tmp_path: Path) -> None:
    """1: the launcher ends, the server keeps the pipe."""
    with command(tmp_path, *site(tmp_path)) as launcher:
        assert launcher.stdout is not None
        try:
            next(line for line in launcher.stdout if "Model server started" in line)
            assert launcher.wait(60) == 0
            running = PidFile(tmp_path / ".model_server.pid").running()
            assert running is not None
        finally:
            assert run(tmp_path, "--stop", "--foreground") == (0, "TorchServe has stopped.\n")
        assert "Stopped." in launcher.stdout.read()  # the pipe ends with the server
        # A process that nobody has reaped yet has ended, too.
        assert not running.is_running() or running.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ts-config", "gone.properties"], "--ts-config file not found: gone.properties"),
        (["--model-store", "gone"], "--model-store directory not found: gone"),
        (["--workflow-store", "gone"], "--workflow-store directory not found: gone"),
        (["--log-config", "gone"], "--log-config file not found: gone"),
    ],
)
def test_what_is_missing_ends_the_start_before_anything_is_bound(tmp_path: Path, flags: list[str], said: str) -> None:
    """3: an address that is taken would be the first to complain."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        usual = [*site(tmp_path), *flags]
        with (tmp_path / "free.properties").open("a") as file:
            file.write(f"inference_address=http://127.0.0.1:{taken.getsockname()[1]}\n")
        assert run(tmp_path, *usual) == (1, f"{said}\n")
    assert not (tmp_path / ".model_server.pid").exists()
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(("is_enabled", "status"), [("true", 405), ("false", 200)])
def test_the_environment_beats_the_flag_where_the_file_lets_it(
    server: Callable[..., Server], make_archive: Callable[..., Path], is_enabled: str, status: int
) -> None:
    """29, for the model API; test_tokens has the tokens."""
    make_archive("m", MIRROR)
    running = server(
        config={"enable_envvars_config": is_enabled},
        args=["--enable-model-api"],
        environment={"TS_ENABLE_MODEL_API": "false"},
    )
    answer = running.register("m.mar")
    assert answer.status_code == status
    if status == 405:
        assert error_of(answer)[1:] == (
            "MethodNotAllowedException",
            "Requested method is not allowed, please refer to API document.",
        )


def test_a_junk_value_of_async_logging_is_false(server: Callable[..., Server]) -> None:
    """45: which changes nothing, because lines are always written in the background."""
    running = server(config={"async_logging": 2})
    assert running.infer("GET", "ping").status_code == 200
    eventually(lambda: "GET /ping" in (running.folder / "logs" / "access_log.log").read_text(), "the line is written")


@pytest.mark.parametrize(
    ("config", "environment", "count"),
    [
        ({}, {}, 7),
        ({"disable_system_metrics": "true"}, {}, 0),
        ({"enable_envvars_config": "true"}, {"TS_DISABLE_SYSTEM_METRICS": "true"}, 0),
        ({}, {"TS_DISABLE_SYSTEM_METRICS": "true"}, 7),
    ],
)
def test_system_metrics_are_seven_or_none(
    server: Callable[..., Server], config: dict[str, str], environment: dict[str, str], count: int
) -> None:
    """47, on a machine without GPUs; each of those adds three: test_placement."""
    running = server(config=config, environment=environment)
    log = running.folder / "logs" / "ts_metrics.log"
    running.infer("GET", "ping")
    lines = eventually(
        lambda: (lines := log.read_text().splitlines()) and len(lines) > count and lines, "the request and the machine"
    )
    names = [line.split(" - ")[1].partition(".")[0] for line in lines]
    assert [name for name in names if not name.startswith("Requests")] == SYSTEM_METRICS[:count]


def test_workflows_are_looked_for_with_the_models(server: Callable[..., Server]) -> None:
    """52: as far as it shows yet."""
    running = server()
    text = running.log_text()
    assert f"\nModel Store: {running.model_store}\n" in text
    assert f"\nWorkflow Store: {running.model_store}\n" in text
