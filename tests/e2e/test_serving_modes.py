"""Continuous batching, asynchronous workers, stateful sequences and job tickets, as their clients see them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from servers import Server, Servers, eventually, together

# Counts to the number in the request's body, one step for each number. A request with `hold` does not get on while that
# file is there; then the handler writes down beside it which requests it sees together.
COUNTER = """
import json, pathlib, time


class Counter:
    def initialize(self, context):
        context.cache = {}
        self.steps = []

    def handle(self, data, context):
        ids = [context.request_ids[index] for index in range(len(data))]
        for gone in set(context.cache) - set(ids):
            del context.cache[gone]
        for index, (id, row) in enumerate(zip(ids, data)):
            if row:
                order = json.loads(bytes(row["body"]))
                context.cache[id] = {"count": 0, **order}
                context.set_response_header(index, "x-first", "yes")
        states = [context.cache[id] for id in ids]
        self.steps.append([state["name"] for state in states])
        if any(state["name"] == "poison" for state in states):
            raise ValueError("poison")
        for state in states:
            hold = pathlib.Path(state.get("hold", "nothing"))
            if hold.exists():
                hold.with_suffix(".seen").write_text(json.dumps(self.steps[-1]))
                time.sleep(0.01)
            else:
                state["count"] += 1
        context.stopping_criteria = [self.criterion(state) for state in states]
        return [f"{state['name']}{state['count']} " for state in states]

    def criterion(self, state):
        def stop(result):
            if state.get("whole"):
                return None
            if state["name"] == "crooked":
                raise KeyError("criterion")
            return state["count"] >= state["to"]
        return stop
"""


def counter_order(name: str, to: int = 3, **values: Any) -> bytes:
    return json.dumps({"name": name, "to": to, **values}).encode()


@pytest.fixture(scope="module")
def continuous(module_servers: Servers) -> Server:
    config = {"minWorkers": 1, "continuousBatching": True, "batchSize": 4, "responseTimeout": 10}
    module_servers.archives.pack("counter", COUNTER, config=config)
    return module_servers.start(models=["counter.mar"])


def test_a_request_is_stepped_until_its_criterion_says_stop(continuous: Server) -> None:
    answer = continuous.predict("counter", counter_order("a", 3))
    assert answer.text == "a1 a2 a3 "
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.headers["x-first"] == "yes"


def test_requests_of_different_length_are_served_together(continuous: Server) -> None:
    answers = continuous.predict_together(
        "counter", [counter_order(name, to) for name, to in zip("abcdefgh", range(1, 9), strict=True)]
    )
    for name, to, answer in zip("abcdefgh", range(1, 9), answers, strict=True):
        assert answer.text == "".join(f"{name}{count} " for count in range(1, to + 1))


def test_a_result_without_criterion_is_the_whole_answer(continuous: Server) -> None:
    answer = continuous.predict("counter", counter_order("a", whole=True))
    assert answer.text == "a1 "
    assert "Transfer-Encoding" not in answer.headers


def test_a_criterion_that_raises_ends_its_own_request_only(continuous: Server) -> None:
    crooked, fine = continuous.predict_together("counter", [counter_order("crooked"), counter_order("fine", 5)])
    assert crooked.status_code == 503
    assert fine.text == "fine1 fine2 fine3 fine4 fine5 "


def held(server: Server, hold: Path, name: str = "held") -> requests.Response:
    """A stream that stands still while the file is there."""
    hold.touch()
    return server.predict("counter", counter_order(name, 2, hold=str(hold)), stream=True)


def seen(hold: Path) -> list[str]:
    """Names of the requests in the latest step."""
    file = hold.with_suffix(".seen")
    text = file.read_text() if file.exists() else ""
    names: list[str] = json.loads(text) if text else []
    return names


def test_new_requests_join_while_others_are_under_way(continuous: Server, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    with held(continuous, hold) as answer:
        assert continuous.predict("counter", counter_order("quick", 4)).text == "quick1 quick2 quick3 quick4 "
        eventually(lambda: seen(hold) == ["held"], "the one that joined has left")
        hold.unlink()
        assert answer.text.endswith("held1 held2 ")


def test_never_more_than_batch_size_at_once_and_in_the_order_of_arrival(continuous: Server, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    names = ["one", "two", "three", "four"]
    answers = [held(continuous, hold, name) for name in names]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(continuous.predict, "counter", counter_order("late", 1))
        eventually(lambda: continuous.describe("counter")[0]["jobQueueStatus"]["pendingRequests"] == 1, "one waits")
        eventually(lambda: seen(hold) == names, "the four together")  # being written, the file is empty
        hold.unlink()
        assert waiting.result(30).text == "late1 "
    assert all(answer.text.endswith(f"{name}2 ") for name, answer in zip(names, answers, strict=True))


def test_a_client_that_goes_away_frees_its_place(continuous: Server, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    with held(continuous, hold):
        gone = held(continuous, hold, "gone")
        eventually(lambda: seen(hold) == ["held", "gone"], "both are stepped")
        gone.close()
        eventually(lambda: seen(hold) == ["held"], "the handler does not see the request any more")
        hold.unlink()


def test_of_those_in_a_step_that_hangs_only_who_hangs_alone_fails(
    server: Callable[..., Server], make_archive: Callable[..., Path]
) -> None:
    source = """
import time

def handle(data, context):
    if data is None:
        return None
    if b"hang" in [row["body"] for row in data]:
        time.sleep(600)
    if b"first" in [row["body"] for row in data]:
        time.sleep(0.3)  # the others come meanwhile and are in the next step together
    return [bytes(row["body"]) for row in data]
"""
    config = {"minWorkers": 1, "continuousBatching": True, "batchSize": 4, "responseTimeout": 1}
    make_archive("m", source, config=config)
    running = server(models=["m.mar"])
    first, hung, *fine = running.predict_together("m", ["first", "hang", "one", "two"])
    assert first.text == "first"
    assert hung.status_code == 500 and "did not respond within 1 s" in hung.json()["message"]
    assert [answer.text for answer in fine] == ["one", "two"]


def test_an_error_in_a_step_ends_those_in_it_and_no_others(continuous: Server) -> None:
    answer = continuous.predict("counter", counter_order("poison"))
    assert answer.status_code == 503
    assert answer.json()["message"].startswith("Prediction failed")
    assert continuous.predict("counter", counter_order("after", 1)).text == "after1 "


# --- asynchronous workers ---

ASYNC = """
import asyncio, json, os
from ts.handler_utils.utils import send_intermediate_predict_response

# All requests that are in `handle` meet here.
MEETING = {"present": 0, "complete": None}


class Handler:
    def initialize(self, context):
        self.cancelled = []

    async def handle(self, data, context):
        order = json.loads(bytes(data[0]["body"]))
        if "meet" in order and not os.path.exists(order.get("over", "")):
            MEETING["complete"] = MEETING["complete"] or asyncio.Event()
            MEETING["present"] += 1
            if MEETING["present"] == order["meet"]:
                MEETING["complete"].set()
            await MEETING["complete"].wait()
        if order.get("then") == "raise":
            raise ValueError("no")
        if order.get("then") == "die":
            open(order["over"], "w").close()
            os._exit(1)
        if order.get("then") == "wait":
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                self.cancelled.append(order["name"])
                raise
        if order.get("then") == "cancelled":
            return [self.cancelled]
        context.set_response_header(0, "x-name", order["name"])
        for number in range(order.get("parts", 0)):
            send_intermediate_predict_response([f"{number} "], context.request_ids, "Intermediate", 200, context)
            await asyncio.sleep(0)
        return [f"{order['name']} {context.get_request_id(0) == context.request_ids[0]}"]
"""


@pytest.fixture(scope="module")
def asynchronous(module_servers: Servers) -> Server:
    config = {"minWorkers": 1, "asyncCommunication": True, "responseTimeout": 1}
    module_servers.archives.pack("engine", ASYNC, config=config)
    return module_servers.start(models=["engine.mar"])


def async_order(name: str, **values: Any) -> bytes:
    return json.dumps({"name": name, **values}).encode()


def test_any_number_of_requests_are_in_the_handler_at_once(asynchronous: Server) -> None:
    """Twenty requests, none of which is answered before all of them are there."""
    answers = asynchronous.predict_together("engine", [async_order(str(number), meet=20) for number in range(20)])
    for number, answer in enumerate(answers):
        assert answer.text == f"{number} True"
        assert answer.headers["x-name"] == str(number)


def test_an_error_of_one_request_stays_its_own(asynchronous: Server) -> None:
    orders = [async_order(str(number), then="raise" if number == 3 else "answer") for number in range(8)]
    answers = asynchronous.predict_together("engine", orders)
    assert [answer.status_code for answer in answers] == [503 if number == 3 else 200 for number in range(8)]


def test_asynchronous_handlers_stream(asynchronous: Server) -> None:
    answer = asynchronous.predict("engine", async_order("s", parts=3))
    assert answer.text == "0 1 2 s True"
    assert answer.headers["Transfer-Encoding"] == "chunked"


def test_the_task_of_a_client_that_goes_away_is_cancelled(asynchronous: Server) -> None:
    name = uuid.uuid4().hex
    with pytest.raises(requests.ReadTimeout):
        # Longer than responseTimeout, which is not for asynchronous workers: one slow request must not end the others.
        asynchronous.predict("engine", async_order(name, then="wait"), timeout=2)
    eventually(
        lambda: name in asynchronous.predict("engine", async_order("", then="cancelled")).json(), "task cancelled"
    )


def test_a_death_ends_only_the_request_that_caused_it(asynchronous: Server, tmp_path: Path) -> None:
    """All three are in the handler when one of them ends the worker; the others are answered by the next one."""
    over = str(tmp_path / "over")
    thens = ["die", "answer", "answer"]
    orders = [async_order(str(number), meet=3, over=over, then=then) for number, then in enumerate(thens)]
    died, *others = asynchronous.predict_together("engine", orders)
    assert died.status_code == 500
    assert died.json()["message"].startswith("Worker died.")
    assert [other.text for other in others] == ["1 True", "2 True"]


# --- stateful sequences ---

ADDER = """
import json, os


class Adder:
    def initialize(self, context):
        self.sums = {}

    def handle(self, data, context):
        answers = []
        for index, row in enumerate(data):
            order = json.loads(bytes(row["body"]))
            id = context.get_sequence_id(index)
            if context.get_request_header(index, context.header_key_sequence_start) == "true":
                self.sums[id] = 0
            self.sums[id] = self.sums.get(id, 0) + order["add"]
            if order.get("die"):
                os._exit(1)
            context.set_response_header(index, context.header_key_sequence_id, id)
            answers.append({"sum": self.sums[id], "pid": os.getpid(), "batch": len(data)})
        return answers
"""
ID, START = "ts_request_sequence_id", "ts_request_sequence_start"


@pytest.fixture(scope="module")
def stateful(module_servers: Servers) -> Server:
    config = {
        "minWorkers": 2,
        "maxWorkers": 2,
        "batchSize": 4,
        "sequenceBatching": True,
        "sequenceMaxIdleMSec": 2000,
        "maxNumSequence": 4,
        "maxSequenceJobQueueSize": 10,
    }
    module_servers.archives.pack("adder", ADDER, config=config)
    short = {**config, "minWorkers": 1, "sequenceMaxIdleMSec": 300, "maxNumSequence": 1, "maxSequenceJobQueueSize": 1}
    module_servers.archives.pack("short", ADDER, config=short)
    timed = {**config, "minWorkers": 1, "sequenceTimeoutMSec": 300, "sequenceMaxIdleMSec": 60_000, "maxNumSequence": 1}
    module_servers.archives.pack("timed", ADDER, config=timed)
    return module_servers.start(models=["adder.mar", "short.mar", "timed.mar"])


def add(server: Server, number: int, id: str | None = None, model: str = "adder", **values: Any) -> requests.Response:
    headers = {ID: id} if id else {}
    headers |= values.pop("headers", {})
    return server.predict(model, json.dumps({"add": number, **values}).encode(), headers=headers)


def room(server: Server, model: str = "adder") -> str:
    """An id whose sequence could be opened, that is, when earlier ones have ended."""
    id = uuid.uuid4().hex
    eventually(lambda: add(server, 0, id, model).status_code == 200, "room for a sequence")
    return id


def test_a_sequence_stays_with_its_worker_and_its_state(stateful: Server) -> None:
    ids = [room(stateful) for _ in range(4)]
    answers = {id: [add(stateful, number, id).json() for number in (1, 2, 3)] for id in ids}
    for results in answers.values():
        assert [result["sum"] for result in results] == [1, 3, 6]
        assert len({result["pid"] for result in results}) == 1
    assert len({results[0]["pid"] for results in answers.values()}) == 2, (
        "the sequences are shared out among the workers"
    )
    eventually(lambda: add(stateful, 0, ids[0] + "x").status_code == 200, "an idle sequence ends", 10)


def test_requests_of_a_sequence_go_one_at_a_time_in_the_order_of_arrival(stateful: Server) -> None:
    id = room(stateful)
    sums = [answer.json() for answer in together(*(lambda: add(stateful, 1, id) for _ in range(8)))]
    assert sorted(result["sum"] for result in sums) == list(range(1, 9))
    assert {result["batch"] for result in sums} == {1}


def test_a_request_without_id_begins_a_sequence_and_learns_its_id(stateful: Server) -> None:
    room(stateful)
    first = eventually(lambda: (answer := add(stateful, 5)).ok and answer, "room")
    id = first.headers[ID]
    assert id.startswith("ts-seq-")
    assert add(stateful, 2, id).json()["sum"] == 7


def test_an_idle_sequence_ends_and_makes_room(stateful: Server) -> None:
    first = room(stateful, "short")
    refused = add(stateful, 1, "another", "short")
    assert refused.status_code == 503
    message = refused.json()["message"]
    assert message.startswith('Model "short" has no worker to serve inference request.')
    assert "maxNumSequence" in message and refused.headers["Retry-After"] == "1"
    assert add(stateful, 1, first, "short").status_code == 200
    eventually(lambda: add(stateful, 1, "another", "short").status_code == 200, "the idle sequence has ended")


def test_a_sequence_ends_when_its_time_is_up_though_it_is_not_idle(stateful: Server) -> None:
    room(stateful, "timed")  # sequenceMaxIdleMSec is a minute
    assert add(stateful, 1, "next", "timed").status_code == 503
    eventually(lambda: add(stateful, 1, "next", "timed").status_code == 200, "sequenceTimeoutMSec has ended it")


def test_the_state_of_a_dead_worker_is_not_made_up(stateful: Server) -> None:
    id = room(stateful)
    assert add(stateful, 3, id).json()["sum"] == 3
    died = add(stateful, 1, id, die=True)
    assert died.status_code == 500 and died.json()["message"].startswith("Worker died.")
    lost = add(stateful, 1, id)
    assert lost.status_code == 503
    assert "is gone" in lost.json()["message"] and START in lost.json()["message"]
    assert add(stateful, 1, id, headers={START: "true"}).json()["sum"] == 1


def test_the_names_of_the_headers_can_be_changed(
    server: Callable[..., Server], make_archive: Callable[..., Path]
) -> None:
    config = {"minWorkers": 1, "sequenceBatching": True, "sequenceMaxIdleMSec": 60_000, "maxNumSequence": 2}
    make_archive("adder", ADDER, config=config)
    renamed = server(
        models=["adder.mar"],
        config={"ts_header_key_sequence_id": "x-conversation", "ts_header_key_sequence_start": "x-begin"},
    )
    first = add(renamed, 4)
    id = first.headers["x-conversation"]
    assert add(renamed, 1, headers={"x-conversation": id}).json()["sum"] == 5
    assert add(renamed, 1, headers={"x-conversation": id, "x-begin": "true"}).json()["sum"] == 1


# --- job tickets ---


def test_with_job_tickets_nobody_waits(
    server: Callable[..., Server], make_archive: Callable[..., Path], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    source = f"""
import pathlib, time

def handle(data, context):
    if data is None:
        return None
    pathlib.Path({str(gate)!r}).touch()
    while pathlib.Path({str(gate)!r}).exists():
        time.sleep(0.005)
    return ["done"] * len(data)
"""
    make_archive("m", source, config={"minWorkers": 1, "useJobTicket": True})
    running = server(models=["m.mar"])
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(running.predict, "m")
        eventually(gate.exists, "the only worker is busy")
        refused = running.predict("m")
        assert refused.status_code == 503
        assert refused.json()["message"].startswith('Model "m" has no worker to serve inference request.')
        assert "useJobTicket" in refused.json()["message"]
        gate.unlink()
        assert served.result(30).text == "done"


# --- sequences of a model with continuous batching ---

STREAMING_ADDER = """
import json


class Adder:
    def initialize(self, context):
        self.sums = {}
        context.cache = {}

    def handle(self, data, context):
        results = []
        context.stopping_criteria = []
        for index, row in enumerate(data):
            id, request_id = context.get_sequence_id(index), context.request_ids[index]
            if row:
                if context.get_request_header(index, context.header_key_sequence_start) == "true":
                    self.sums[id] = 0
                context.cache[request_id] = json.loads(bytes(row["body"]))
                context.set_response_header(index, context.header_key_sequence_id, id)
            left = context.cache[request_id]
            number = left.pop(0)
            self.sums[id] = self.sums.get(id, 0) + number
            if number == 0:
                context.set_response_header(index, context.header_key_sequence_end, id)
            results.append(f"{self.sums[id]} ")
            context.stopping_criteria.append(lambda result, left=left: not left)
        return results
"""


def test_sequences_stream_and_end_when_the_handler_says_so(
    server: Callable[..., Server], make_archive: Callable[..., Path]
) -> None:
    config = {
        "minWorkers": 1,
        "batchSize": 2,
        "sequenceBatching": True,
        "continuousBatching": True,
        "sequenceMaxIdleMSec": 60_000,
        "maxNumSequence": 2,
    }
    make_archive("adder", STREAMING_ADDER, config=config)
    running = server(models=["adder.mar"])

    def add_all(numbers: list[int], id: str | None = None) -> requests.Response:
        return running.predict("adder", json.dumps(numbers).encode(), headers={ID: id} if id else {})

    one, two = together(lambda: add_all([1, 2, 3], "one"), lambda: add_all([10, 20, 30], "two"))
    assert (one.text, two.text) == ("1 3 6 ", "10 30 60 ")
    assert add_all([1], "one").text == "7 "
    assert add_all([1], "three").status_code == 503  # maxNumSequence
    assert add_all([1, 0], "one").text == "8 8 "
    assert add_all([1], "three").text == "1 "  # the handler has ended "one"
    assert add_all([1], "two").text == "61 "
