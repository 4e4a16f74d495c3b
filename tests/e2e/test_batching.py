"""How requests share batches, wherever batch size and delay come from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import Server, eventually, together

# Answers with the size of the batch, which of its members this is, and the text of the request.
COUNTS = """
import os, time


def handle(data, context):
    if data is None:
        return
    kinds = {context.get_request_header(index, "explain") for index in range(len(data))}
    texts = [row["body"] if isinstance(row["body"], str) else bytes(row["body"]).decode() for row in data]
    for text in texts:
        if text == "sleep":
            time.sleep(1)
        if text == "hold":
            open("BUSY", "w").close()
            while not os.path.exists("GATE"):
                time.sleep(0.01)
    return [
        {"batch": len(data), "text": text, "kinds": sorted(kinds), "pid": os.getpid(), "ids": context.request_ids}
        for text in texts
    ]
"""
TEXTS = ["one", "two", "three"]

Make = Callable[..., Path]
Start = Callable[..., Server]


def sizes(server: Server, texts: list[str], name: str = "counts") -> list[int]:
    """Sends all at once; each client gets its own answer; the size of the batch each was in."""
    answers = server.predict_together(name, texts)
    assert [answer.json()["text"] for answer in answers] == texts
    return [answer.json()["batch"] for answer in answers]


def test_fixed_three_requests_are_one_batch_of_three(server: Start, make_archive: Make) -> None:
    """batch_size 4 and max_batch_delay 5000: the batch goes when its time is up, with the three that are there."""
    make_archive("counts", COUNTS, config={"batchingPolicy": "fixed"})
    running = server()
    assert running.register("counts.mar", batch_size=4, max_batch_delay=2000, initial_workers=1).status_code == 200
    began_s = time.monotonic()
    assert sizes(running, TEXTS) == [3, 3, 3]
    assert 1.9 < time.monotonic() - began_s < 10
    began_s = time.monotonic()
    assert sizes(running, [*TEXTS, "four"]) == [4, 4, 4, 4]
    assert time.monotonic() - began_s < 1.5, "a full batch does not wait"


def test_adaptive_three_requests_get_three_answers_without_the_delay(server: Start, make_archive: Make) -> None:
    make_archive("counts", COUNTS)
    running = server()
    assert running.register("counts.mar", batch_size=4, max_batch_delay=5000, initial_workers=1).status_code == 200
    began_s = time.monotonic()
    assert all(1 <= size <= 3 for size in sizes(running, TEXTS))
    assert sizes(running, ["alone"]) == [1]
    assert time.monotonic() - began_s < 2.5


def test_adaptive_waiting_requests_share_a_batch(server: Start, make_archive: Make, tmp_path: Path) -> None:
    """While the worker is busy requests gather; what gathered goes together."""
    source = COUNTS.replace("BUSY", str(tmp_path / "busy")).replace("GATE", str(tmp_path / "gate"))
    make_archive("counts", source, config={"batchSize": 4, "maxBatchDelay": 5000})
    running = server(["counts.mar"])
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(running.predict, "counts", "hold")
        eventually((tmp_path / "busy").exists, "the first request at the worker")
        others = [pool.submit(running.predict, "counts", text) for text in TEXTS]
        eventually(lambda: running.describe("counts")[0]["jobQueueStatus"]["pendingRequests"] == 3, "three waiting")
        (tmp_path / "gate").touch()
    assert first.result().json()["batch"] == 1
    assert [other.result().json()["batch"] for other in others] == [3, 3, 3]


def test_batching_from_the_archive(server: Start, make_archive: Make) -> None:
    config = {"batchSize": 3, "maxBatchDelay": 10_000, "batchingPolicy": "fixed", "minWorkers": 1, "maxWorkers": 1}
    make_archive("counts", COUNTS, config=config)
    running = server(["counts.mar"])
    assert sizes(running, TEXTS) == [3, 3, 3]


def table(**versions: Mapping[str, object]) -> dict[str, str]:
    """`models=` as config.properties has it, over several lines."""
    return {"models": json.dumps({"counts": versions}, indent=2).replace("\n", "\\\n")}


SETTINGS = {"minWorkers": 2, "maxWorkers": 3, "batchSize": 3, "maxBatchDelay": 10_000, "responseTimeout": 77}


def test_batching_from_config_properties(server: Start, make_archive: Make) -> None:
    make_archive("counts", COUNTS, config={"batchingPolicy": "fixed"})
    running = server(["counts.mar"], table(**{"1.0": SETTINGS}))
    assert sizes(running, TEXTS) == [3, 3, 3]
    description = running.describe("counts")[0]
    assert {key: description[key] for key in SETTINGS} == SETTINGS
    assert len(running.worker_pids("counts")) == 2


def test_an_entry_for_another_version_is_applied_with_a_warning(server: Start, make_archive: Make) -> None:
    """TorchServe ignores it without a word (its issue 2365)."""
    make_archive("counts", COUNTS, config={"batchingPolicy": "fixed"})
    entry = {"defaultVersion": True, "marName": "counts.mar", **SETTINGS}
    running = server(["counts.mar"], table(**{"2.0": entry}))
    assert sizes(running, TEXTS) == [3, 3, 3]
    warning = next(line for line in running.log_text().splitlines() if "[WARN ]" in line and "2.0" in line)
    assert "1.0" in warning
    assert "counts" in warning


def test_the_archive_wins_over_config_properties(server: Start, make_archive: Make) -> None:
    make_archive("counts", COUNTS, config={"batchSize": 5, "minWorkers": 1})
    running = server(["counts.mar"], table(**{"1.0": SETTINGS}))
    description = running.describe("counts")[0]
    assert (description["batchSize"], description["maxBatchDelay"], description["minWorkers"]) == (5, 10_000, 1)


def test_a_blank_after_the_equals_sign(server: Start, make_archive: Make) -> None:
    make_archive("counts", COUNTS)
    running = server(["renamed=", "counts.mar"])
    assert running.predict("renamed", "x").json()["text"] == "x"


def test_explanations_never_share_a_batch_with_predictions(server: Start, make_archive: Make) -> None:
    make_archive("counts", COUNTS, config={"batchSize": 4, "maxBatchDelay": 500, "batchingPolicy": "fixed"})
    running = server(["counts.mar"])
    predictions = [lambda: running.predict("counts", "p")] * 6
    explanations = [lambda: running.infer("POST", "explanations/counts", data="e")] * 6
    answers = [answer.json() for answer in together(*predictions, *explanations)]
    assert [answer["kinds"] for answer in answers] == [["False"]] * 6 + [["True"]] * 6


@pytest.mark.parametrize(("declared", "most"), [("False", 1), ("True", 3)])
def test_explanations_share_a_batch_only_where_the_handler_can(
    server: Start, make_archive: Make, declared: str, most: int
) -> None:
    source = f"""
class Handler:
    batch_explanations = {declared}

    def initialize(self, context):
        pass

    def handle(self, data, context):
        return [str(len(data))] * len(data)
"""
    make_archive("explains", source, config={"batchSize": 3, "maxBatchDelay": 2000, "batchingPolicy": "fixed"})
    running = server(["explains.mar"])
    answers = together(*[lambda: running.infer("POST", "explanations/explains", data=b"x")] * 3)
    assert [int(answer.text) for answer in answers] == [most] * 3


def test_a_batch_tells_its_members_apart(server: Start, make_archive: Make) -> None:
    make_archive("counts", COUNTS, config={"batchSize": 8, "maxBatchDelay": 10_000, "batchingPolicy": "fixed"})
    running = server(["counts.mar"])
    answers = running.predict_together("counts", [f"text {index}" for index in range(8)])
    assert [answer.json()["text"] for answer in answers] == [f"text {index}" for index in range(8)]
    ids = answers[0].json()["ids"]
    assert sorted(ids.values()) == sorted(answer.headers["x-request-id"] for answer in answers)


def test_three_workers_answer_in_parallel(server: Start, make_archive: Make) -> None:
    make_archive("counts", COUNTS, config={"minWorkers": 3, "maxWorkers": 3})
    running = server(["counts.mar"])
    began_s = time.monotonic()
    answers = running.predict_together("counts", ["sleep"] * 3)
    assert len({answer.json()["pid"] for answer in answers}) == 3
    assert time.monotonic() - began_s < 1.9


def test_many_clients_each_get_their_own_answer(server: Start, make_archive: Make) -> None:
    make_archive("counts", COUNTS, config={"batchSize": 4, "maxBatchDelay": 20, "minWorkers": 2, "maxWorkers": 2})
    running = server(["counts.mar"])
    for round in range(10):
        texts = [f"{round}-{index}" for index in range(30)]
        assert max(sizes(running, texts)) <= 4
