"""Behaviours that TorchServe's own tests check and that are missed most easily, as far as handlers and models go.

The numbers are those of the contract with TorchServe, section 12; the tests here carry theirs in their docstrings. The
others are proven elsewhere:

     4  api/test_responses: test_bodies, test_headers_of_the_handler_are_sent_as_it_spelled_them
     6  api/test_responses: test_a_status_of_the_handler_keeps_its_body (one request)
     7  api/test_inference_errors: test_what_a_handler_does_wrong[599]
     8  api/test_inference_errors: test_what_a_handler_does_wrong[memory]
        api/test_registration: test_memory_that_runs_out_while_loading_is_507
     9  test_worker_death: test_a_hung_worker_is_replaced
    10  test_worker_death: test_loading_may_take_longer_than_a_response
    12  api/test_registration: test_refused_registrations (an archive of the store; 16 and 17 as well)
    18  api/test_registration: test_junk_numbers_count_as_not_given, test_minus_one_worker_is_none,
        test_whatever_is_not_true_is_asynchronous
        api/test_management: test_junk_numbers_count_as_the_default, test_pages
    19  api/test_management: test_numbers_that_cannot_be, test_no_workers_and_back
    20  api/test_registration: test_unregister_ends_the_workers_and_keeps_the_archive
    21  api/test_management: test_pages, test_an_entry_of_the_list
    22  api/test_management: test_describe_versions
    23  api/test_management: test_customized_descriptions, test_customized_without_workers
    24  api/test_management: test_workers_that_do_not_come_up
    25  api/test_registration: test_a_failed_synchronous_registration_leaves_nothing
    26  api/test_registration: test_versions, test_set_default_of_what_is_not_there
    27  api/test_registration: test_unregistering_that_takes_too_long_can_be_tried_again
    28  api/test_registration: test_registration_is_off_unless_enabled
    33  test_serving_modes: test_sequences_stream_and_end_when_the_handler_says_so (over HTTP)
    34  test_streaming: test_each_part_is_one_chunk_and_the_result_the_last
    36  api/test_request_parts: test_form_fields_hold_every_byte_exactly,
        test_multipart_fields_are_raw_and_files_have_their_own_types
    37  api/test_request_parts: test_parts_are_not_decoded_where_the_operator_says_so, test_a_plain_body
    38  api/test_inference_routes: test_routes_that_predict, test_invocations_find_the_model_in_a_form_field,
        test_models_that_are_not_there
    39  api/test_request_parts: test_the_limit_on_bodies_is_inclusive
    40  test_life: test_an_expired_request (504, where TorchServe never answers)
    41  api/test_refused_archives: test_other_forms_are_accepted (a tar.gz with a folder around it all)
    42  test_life: test_a_model_that_fails_at_the_start_stops_no_other (without a snapshot)
    48  api/test_registration: test_what_the_request_says_wins,
        test_what_the_archive_says_holds_where_the_request_is_silent
    50  api/test_management: test_methods_that_are_not_allowed, test_paths_that_are_not_there
        api/test_inference_routes: test_the_root_has_only_a_description
    51  api/test_registration: test_parameters_as_a_json_body
    54  test_envelopes: test_kserve_predictions, test_kserve_explanations, test_kservev2_answers_in_the_protocol
    55  test_serving_modes: test_any_number_of_requests_are_in_the_handler_at_once
"""

from __future__ import annotations

import json
import uuid
import zipfile

import pytest
import requests
from servers import MIRROR, Server, Servers, error_of, eventually, together

# Tells each request of a batch apart by its path; sets one status for all where the first request says so.
PATHS = """
def handle(data, context):
    if data and bytes(data[0]["body"]) == b"507":
        context.set_all_response_status(507, "Out of storage")
        return ["Invalid response"] * len(data)
    return data and [f"{context.get_request_header(index, 'url_path')} of {len(data)}" for index in range(len(data))]
"""
HANGS = """
import time

def handle(data, context):
    if data and bytes(data[0]["body"]) == b"hang":
        time.sleep(1000)
    return data and ["fine"] * len(data)
"""
LENGTH = "def handle(data, context):\n    return data and [len(row['body']) for row in data]\n"
NEVER_LOADS = """
import time

def handle(data, context):
    while True:
        time.sleep(60)
"""
FAILS_TO_LOAD = """
class Handler:
    def initialize(self, context):
        self.look_for_weights()

    def look_for_weights(self):
        raise FileNotFoundError("the weights are elsewhere")

    def handle(self, data, context):
        return data
"""
PLAIN = "def handle(data, context):\n    return data and [f'{context.model_name} answers'] * len(data)\n"


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    archives = module_servers.archives
    pair = {"batchSize": 2, "maxBatchDelay": 10_000, "batchingPolicy": "fixed", "minWorkers": 1, "maxWorkers": 1}
    archives.pack("paths", PATHS, config=pair)
    archives.pack("hangs", HANGS, config={"responseTimeout": 1})
    archives.pack("length", LENGTH)
    archives.pack("mirror", MIRROR)
    archives.pack("unversioned", PLAIN, version="")
    archives.pack("never", NEVER_LOADS, config={"responseTimeout": 60, "startupTimeout": 1})
    archives.pack("fails", FAILS_TO_LOAD)
    folder = archives.folder.parent / "elsewhere"
    folder.mkdir()
    (folder / "service.py").write_text(PLAIN)
    with zipfile.ZipFile(archives.folder / "bare.mar", "w") as bare:
        bare.writestr("service.py", PLAIN)
    return module_servers.start(
        ["paths.mar", "hangs.mar", "length.mar", "mirror.mar", "unversioned.mar", "bare=bare.mar", f"naked={folder}/"],
        {"default_service_handler": "service.py:handle", "max_request_size": 20_000_000},
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "ping"),
        ("OPTIONS", ""),
        ("POST", "predictions/length"),
        ("POST", "predictions/length/1.0"),
        ("POST", "explanations/length"),
        ("POST", "invocations?model_name=length"),
        ("GET", "length/predict?body=x"),
        ("POST", "v1/models/length:predict"),
    ],
)
def test_every_answer_of_the_inference_port_has_a_request_id(server: Server, method: str, path: str) -> None:
    """Behaviour 5."""
    assert_request_id(server.infer(method, path, data=b""))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "models"),
        ("GET", "models/length"),
        ("GET", "v1/models/length"),
        ("PUT", "models/length?min_worker=1"),
        ("PUT", "models/length/1.0/set-default"),
        ("OPTIONS", ""),
    ],
)
def test_every_answer_of_the_management_port_has_a_request_id(server: Server, method: str, path: str) -> None:
    """Behaviour 5."""
    assert_request_id(server.manage(method, path))


def assert_request_id(answer: requests.Response) -> None:
    assert answer.ok, answer.text
    assert uuid.UUID(answer.headers["x-request-id"]).version == 4


def test_one_status_for_a_whole_batch_keeps_every_body(server: Server) -> None:
    """Behaviour 6."""
    answers = server.predict_together("paths", ["507", "507"])
    assert [(answer.status_code, answer.reason, answer.text) for answer in answers] == [
        (507, "Out of storage", "Invalid response")
    ] * 2


def test_after_a_timeout_the_worker_recovers_by_itself_and_the_log_tells_it_in_order(server: Server) -> None:
    """Behaviour 9."""
    code, type_, message = error_of(server.predict("hangs", "hang"))
    assert (code, type_) == (500, "InternalServerException")
    assert message.startswith("Worker died.")
    assert server.predict("hangs", "x").text == "fine"
    log = server.log_text()
    told = [
        "Number or consecutive unsuccessful inference 1",
        "Backend worker error",
        "org.pytorch.serve.wlm.WorkerInitializationException: Backend worker did not respond in given time",
        "Worker disconnected",
        "Auto recovery start timestamp",
        "Auto recovery succeeded, reset recoveryStartTS",
    ]
    assert all(log.count(line) == 1 for line in told)
    places = [log.index(line) for line in told]
    assert places == sorted(places)
    assert "Auto recovery failed again" not in log


def test_loading_may_not_take_longer_than_startup_timeout_whatever_response_timeout_says(server: Server) -> None:
    """Behaviour 10: the archive allows a minute for an answer and a second for loading."""
    code, _, message = error_of(server.register("never.mar", initial_workers=1))
    assert code == 500
    assert message.startswith("Failed to start workers for model never version: 1.0")
    assert "1 s (startup_timeout)" in message
    assert server.manage("GET", "models/never").status_code == 404


@pytest.mark.parametrize(("workers", "status"), [(1, 500), (0, 200)])
def test_no_time_to_start_matters_to_workers_only(server: Server, workers: int, status: int) -> None:
    """Behaviour 11: `startup_timeout=0`."""
    answer = server.register("mirror.mar", model_name="timeless", initial_workers=workers, startup_timeout=0)
    assert answer.status_code == status, answer.text
    assert server.manage("DELETE", "models/timeless").status_code == (200 if status == 200 else 404)


def test_requests_of_one_batch_have_paths_of_their_own(server: Server) -> None:
    """Behaviour 35."""
    one, two = together(
        lambda: server.infer("POST", "predictions/paths/1.0/v1/chat/completions", data=b"x"),
        lambda: server.infer("POST", "predictions/paths/1.0/v1/models", data=b"x"),
    )
    assert (one.text, two.text) == ("v1/chat/completions of 2", "v1/models of 2")


def test_a_body_of_ten_megabytes_passes_where_it_may(server: Server) -> None:
    """Behaviour 39: `max_request_size=20000000`."""
    assert server.predict("length", bytes(10 << 20)).text == str(10 << 20)
    assert server.predict("length", bytes(20_000_001)).status_code == 413


@pytest.mark.parametrize("name", ["naked", "bare", "unversioned"])
def test_what_an_archive_does_not_say(server: Server, name: str) -> None:
    """Behaviour 41: a folder (named with a slash at its end) and an archive without manifests use
    `default_service_handler`; they and a manifest without a version are version 1.0."""
    assert server.predict(f"{name}/1.0", b"x").text == f"{name} answers"
    assert server.describe(name)[0]["modelVersion"] == "1.0"


def test_the_manifest_without_a_version_has_none(module_servers: Servers, server: Server) -> None:
    """Behaviour 41: what `unversioned` above is packed as."""
    with zipfile.ZipFile(module_servers.archives.folder / "unversioned.mar") as archive:
        assert "modelVersion" not in json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]


def test_the_traceback_is_logged_for_the_first_attempt_and_each_retry(server: Server) -> None:
    """Behaviour 49: line by line, on the console."""
    assert server.register("fails.mar", initial_workers=1, synchronous="false").status_code == 202
    eventually(lambda: attempts(server) >= 3, "two retries")
    assert server.manage("DELETE", "models/fails").status_code == 200
    seen = server.log_text()
    for line in ("Traceback (most recent call last):", "in look_for_weights", "self.look_for_weights()"):
        assert seen.count(line) >= 3
    assert "Retry worker: " in seen


def attempts(server: Server) -> int:
    """How often the worker itself has printed the end of its traceback."""
    last = "-stderr MODEL_LOG - FileNotFoundError: the weights are elsewhere"
    return len([line for line in server.log_text().splitlines() if line.endswith(last)])
