"""What whoever manages models may get wrong: names, numbers, URLs, state and configuration.

The rows are those of the matrix of faults, sections D, E and J; where TorchServe's clients know another answer, that
one holds (docs/compatibility.md). The tests here carry theirs in their docstrings. Proven elsewhere:

    D01, D02  api/test_registration: test_names_that_no_path_could_reach_are_refused; serving/test_registry:
              test_names_that_no_url_could_reach_are_refused, test_versions_that_no_url_could_reach_are_refused
    D03, D04  api/test_management: test_junk_numbers_count_as_the_default, test_numbers_that_cannot_be
              api/test_registration: test_junk_numbers_count_as_not_given, test_a_number_in_a_json_body_that_is_none,
              test_refused_registrations
    D05       api/test_management: test_unknown_parameters_are_ignored (as TorchServe does)
    D06       api/test_management: test_pages
    D07       serving/test_registry: test_the_same_version_twice_is_a_conflict_also_in_parallel;
              api/test_registration: test_registered_twice_at_once_one_wins
    D08       test_life: test_unregistered_while_a_request_runs, test_unregistered_while_it_loads;
              api/test_registration: test_versions
    D09       api/test_registration: test_set_default_of_what_is_not_there
    E01       test_registration_urls: test_by_default_nothing_is_fetched
    E02, E03  serving/test_store: test_management_may_name_folders_inside_the_store_only,
              test_a_link_does_not_lead_management_out_of_the_store,
              test_what_is_not_there_or_may_not_be_fetched_is_a_404
              serving/test_download: test_files_that_cannot_be_copied,
              test_a_pattern_for_a_folder_does_not_let_out_of_it
    E04       serving/test_download: test_a_redirect_out_of_what_is_allowed_is_not_followed,
              test_redirects_in_a_circle_end; test_registration_urls: test_a_redirect_to_somewhere_else
    E05, E06  serving/test_download: test_a_name_somebody_else_controls_never_leads_here,
              test_other_names_of_this_machine_lead_nowhere,
              test_urls_that_can_be_read_in_two_ways_are_not_allowed_by_any_pattern
    E07       serving/test_download: test_an_origin_that_breaks_off, test_an_origin_that_falls_silent,
              test_an_origin_that_takes_for_ever
    E08       serving/test_download: test_every_answer_but_200_is_a_400_that_names_it;
              test_registration_urls: test_what_is_fetched_and_cannot_be_served_is_not_kept
    E09       serving/test_download: test_a_file_that_is_too_large, test_a_file_larger_than_allowed_is_not_copied
    E11, E12  serving/test_download: test_what_lies_in_the_store_is_never_overwritten, test_of_two_at_once_one_wins,
              test_nobody_sees_half_a_file
    E13       serving/test_download: test_what_a_killed_server_left_is_swept_and_what_another_still_writes_stays;
              serving/test_private_folder
    J01       test_snapshots: test_killed_at_any_moment_it_comes_back_before_or_after_a_change;
              test_life: test_folders_of_a_killed_server_are_no_obstacle
    J02       config/test_snapshot_files: test_a_damaged_one_is_passed_over_loudly,
              test_one_that_cannot_be_read_is_passed_over
    J03       test_snapshots: test_an_archive_that_has_become_junk_does_not_stop_the_start,
              test_an_archive_that_is_gone_stops_the_start (as with TorchServe)
    J04       config/test_load; cli/test_modelserver_cli; test_configuration:
              test_check_config_fetches_nothing_and_names_what_is_mistyped
    J05       logs/test_rotating_files, logs/test_log_console, logs/test_log_writer; test_log_files: test_logrotate,
              test_a_full_disk_harms_no_request
    J06       logs/test_log_lines; test_log_files: test_what_clients_send_forges_no_line
    J07       test_boundaries: test_nothing_waits_for_the_clock_on_the_wall; config/test_snapshot_files;
              serving/test_snapshot (a clock that was put back); api/test_auth (a clock of the test's)
    J08       metrics/test_server_metrics: test_made_up_dimension_values_end_somewhere_and_that_is_said_once
    J09       test_log_files: test_no_token_no_header_and_no_body_is_logged; test_tokens:
              test_no_key_where_others_look
"""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from origins import Origin, content
from servers import MIRROR, Server, Servers, error_of, eventually, together

ODD_NAMES = [
    *("../x", "a/b", "%2e%2e", ".", "..", "", " ", "\0", "a\nb", '"', "{}", "\\", "CON", "-x", "$(id)"),
    *("n" * 4000, "e\u0301", "\u00e9", "\u0440\u0430\u0443", "\U0001f600", "m%00", "m\r\nx-forged: 1"),
]


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    module_servers.archives.pack("m", MIRROR)
    return module_servers.start(["m.mar"])


def test_models_of_odd_names_are_not_there(server: Server) -> None:
    """D01, J08: whatever is asked for, nothing is opened, one line is logged, and no metric comes to be."""
    before = metrics_of_models(server)
    for name in ODD_NAMES:
        for path in (f"predictions/{quote(name, safe='')}", f"predictions/m/{quote(name, safe='')}x"):
            answer = server.infer("POST", path, data=b"x")
            # The client makes the path of the root out of one that ends with two dots.
            assert answer.status_code in (403, 404) or name == "..", f"{path}: {answer.status_code}"
            assert "x-forged" not in answer.headers
        described = server.manage("GET", f"models/{quote(name, safe='')}")
        assert described.status_code in (403, 404) or name in ("", ".", "..")
    assert metrics_of_models(server) == before
    assert server.predict("m", b"x").status_code == 200


def metrics_of_models(server: Server) -> set[str]:
    """Series with the label of a model."""
    text = requests.get(f"{server.metrics}/metrics", timeout=30).text
    return {line.rpartition(" ")[0] for line in text.splitlines() if "model_name=" in line}


def test_the_reason_is_told_to_whoever_asks_a_model_that_is_not_up(
    server: Server, module_servers: Servers, tmp_path: Path
) -> None:
    """D10: loading, failed, without workers."""
    gate = tmp_path / "gate"
    waits = f"import os, time\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.01)\n"
    module_servers.archives.pack("slow", f"{waits}{MIRROR}")
    module_servers.archives.pack("fails", "raise ImportError('no such thing as that')")
    module_servers.archives.pack("idle", MIRROR)
    server.register("slow.mar", initial_workers=1, synchronous="false")
    server.register("fails.mar", initial_workers=1, synchronous="false")
    server.register("idle.mar")
    try:
        eventually(lambda: server.describe("fails")[0]["state"] == "FAILED", "it has failed for good", 60)
        status, type_, message = error_of(server.predict("fails", b"x"))
        assert (status, type_) == (503, "ServiceUnavailableException")
        # What is in the archive is for whoever manages the models.
        assert message.endswith("All its workers failed to start; GET /models/fails on the management port says why.")
        assert "no such thing as that" in server.describe("fails")[0]["workers"][0]["reason"]
        status, type_, message = error_of(server.predict("idle", b"x"))
        assert (status, type_) == (503, "ServiceUnavailableException")
        assert "Please use scale workers API to add workers." in message
        # Who comes while it loads is served as soon as it has loaded.
        [answer, _] = together(lambda: server.predict("slow", b"x"), lambda: (time.sleep(0.1), gate.touch()))
        assert answer.status_code == 200
    finally:
        for name in ("slow", "fails", "idle"):
            server.manage("DELETE", f"models/{name}")


def test_a_client_that_goes_away_while_its_archive_is_fetched(servers: Servers) -> None:
    """E12: what was begun is finished, whole; nothing is there under the final name before."""
    archive = servers.archives.pack("far", MIRROR)
    whole = archive.read_bytes()
    archive.unlink()
    with Origin() as origin:
        gone = threading.Event()

        def answer(asked: BaseHTTPRequestHandler) -> None:
            gone.wait(10)
            content(whole)(asked)

        origin.answers["/far.mar"] = answer
        server = servers.start(config={"allowed_urls": f"http://127.0.0.1:{origin.port}/.*"})
        with pytest.raises(requests.ReadTimeout):
            server.manage("POST", f"models?initial_workers=1&url=http://127.0.0.1:{origin.port}/far.mar", timeout=0.3)
        assert not archive.exists()
        gone.set()
        eventually(lambda: server.model_names() == ["far"], "the registration goes on without its client")
        assert archive.read_bytes() == whole
        assert server.wait_model_ready("far")
        assert server.predict("far", b"x").status_code == 200


@pytest.mark.parametrize("lines", [["max_request_sise=5"], ["job_queue_size=many", "decode_input_request=maybe"]])
def test_a_start_with_mistakes_says_all_of_them(servers: Servers, lines: list[str]) -> None:
    """J04: a file made for TorchServe starts; `--check-config` is what fails."""
    config = dict(line.split("=") for line in lines)
    text = servers.start(config=config).log_text()
    for key in config:
        assert key in text
