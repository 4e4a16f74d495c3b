"""Streams, sequences, continuous batching, asynchronous workers, job tickets, batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
from comparison import Case, Difference, check
from pairs import Endpoints, Pair
from servers import eventually, together
from wire_exchange import Answer, Request

JSON = ("Content-Type", "application/json")
SEQUENCE = "ts_request_sequence_id"


def ask(model: str, document: object, *headers: tuple[str, str], target: str = "/predictions/{}") -> Request:
    return Request("POST", target.format(model), (JSON, *headers), (json.dumps(document).encode(),))


def in_turn(*requests: Request) -> Callable[[Endpoints], list[Answer]]:
    return lambda server: [server.infer(request) for request in requests]


def at_once(*requests: Request) -> Callable[[Endpoints], list[Answer]]:
    return lambda server: together(*(lambda request=request: server.infer(request) for request in requests))


# --- streams ---


def stream(what: str, **options: object) -> Request:
    return ask("streaming", {"do": what, "with": options})


@pytest.mark.parametrize(
    "case",
    [
        Case("text", stream("send", pieces=["hello ", "hello ", "hello "], last="hello world ")),
        Case("an empty end", stream("send", pieces=["a", "b"], last="")),
        Case("an empty piece", stream("send", pieces=["a", "", "b"], last="c")),
        Case("one piece", stream("send", pieces=["only"], last="")),
        Case("no piece", stream("send", pieces=[], last="only")),
        Case("JSON pieces", stream("send", pieces=[{"n": 1}, [1.5]], last={"end": True})),
        Case("bytes", stream("send_bytes")),
        Case("the old import path", stream("old_path")),
        Case("headers and status", stream("headers")),
        Case("an error before the first piece", stream("fail", sent=0)),
        Case("explained", ask("streaming", {"do": "old_path"}, target="/explanations/{}")),
        Case("KServe", ask("streaming", {"do": "old_path"}, target="/v1/models/{}:predict")),
    ],
    ids=str,
)
def test_stream(pair: Pair, case: Case) -> None:
    pair.check_inference(case)


@pytest.mark.parametrize("request_", [stream("fail", sent=2), stream("wrong_result")], ids=["exception", "no list"])
def test_an_error_within_a_stream_ends_the_connection_within_the_answer(pair: Pair, request_: Request) -> None:
    def read(server: Endpoints) -> None:
        with pytest.raises(EOFError):
            server.infer(request_)

    pair.both(read)


# --- sequences ---


def add(value: int, sequence: str | None = None, *headers: tuple[str, str]) -> Request:
    return ask("sequence", value, *([(SEQUENCE, sequence)] if sequence else []), *headers)


def test_a_sequence_keeps_its_state(pair: Pair) -> None:
    pair.check_each(in_turn(add(1, "a"), add(2, "a"), add(3, "a")))


def test_sequences_do_not_mix(pair: Pair) -> None:
    pair.check_each(in_turn(add(1, "b"), add(10, "c"), add(2, "b"), add(20, "c")))


def test_a_request_without_an_id_begins_a_sequence(pair: Pair) -> None:
    """The id is TorchServe's or ours, and random: `ts-seq-<uuid>`."""

    def begin(server: Endpoints) -> list[str]:
        first = server.infer(add(1, None, ("Copy-Id", "1")))
        sequence = first.header(SEQUENCE) or ""
        second = server.infer(add(2, sequence))
        shown = [answer.body.decode().replace(sequence, "<sequence>") for answer in (first, second)]
        return [sequence[:7], str(len(sequence)), *shown, *sorted(name.lower() for name, _ in first.headers)]

    theirs, ours = pair.both(begin)
    assert theirs == ours


def test_the_name_of_the_id_is_found_in_its_own_case_only(pair: Pair) -> None:
    def totals(server: Endpoints) -> list[object]:
        answers = [server.infer(ask("sequence", value, (SEQUENCE.title(), "d"))) for value in (1, 2)]
        return [json.loads(answer.body)["total"] for answer in answers]

    assert pair.both(totals) == ([1, 2], [1, 2])


def test_the_start_and_the_end_that_a_client_sends_reach_the_handler(pair: Pair) -> None:
    flags = (("ts_request_sequence_start", "true"), ("ts_request_sequence_end", "true"))
    pair.check_each(in_turn(add(1, "e", *flags), add(2, "e", *flags)))


def test_more_sequences_than_the_model_takes(pair: Pair) -> None:
    kept, refused = (ask("one_sequence", 1, (SEQUENCE, name)) for name in "ab")
    pair.check_inference(Case("the one", kept))
    pair.check_inference(Case("one more", refused, Difference("Full queue", 503, 'Model "one_sequence" has no worker')))
    pair.check_inference(Case("the one again", kept))


# --- continuous batching ---


def steps(name: str, count: int) -> Request:
    return ask("continuous", {"name": name, "steps": count})


@pytest.mark.parametrize("count", [0, 2, 4], ids=["no stream", "two chunks", "four chunks"])
def test_continuous_batching(pair: Pair, count: int) -> None:
    pair.check_inference(Case("steps", steps("a", count)))


def test_continuous_batching_of_several(pair: Pair) -> None:
    pair.check_each(at_once(steps("a", 20), steps("b", 30), steps("c", 0), steps("d", 7), steps("e", 11)))


# --- asynchronous workers ---


def asynchronous(what: str, **options: object) -> Request:
    return ask("asynchronous", {"do": what, **options})


@pytest.mark.parametrize(
    "case",
    [
        Case("echo", asynchronous("echo", say="hello")),
        Case("stream", asynchronous("stream", pieces=["a", "b", "c"])),
        Case("exception", asynchronous("fail")),
    ],
    ids=str,
)
def test_asynchronous_worker(pair: Pair, case: Case) -> None:
    pair.check_inference(case)


def test_an_asynchronous_worker_works_on_many_requests_at_once(pair: Pair) -> None:
    pair.check_each(at_once(*(asynchronous("meet", name=str(index), count=10) for index in range(10))))


def test_the_error_of_one_request_of_an_asynchronous_worker(pair: Pair) -> None:
    """The request beside it is worked on already, so it shares neither a batch nor a fault with it."""

    def fail_beside_another(server: Endpoints) -> list[Answer]:
        return beside_a_busy_one(server, "asynchronous", {"do": "wait_for"}, asynchronous("fail"))

    (their_other, their_failed), (our_other, our_failed) = pair.both(fail_beside_another)
    check(their_failed, our_failed)
    check(their_other, our_other, Difference("Errors of asynchronous workers", 200, "waited"))


# --- tickets and queues ---


def beside_a_busy_one(server: Endpoints, model: str, document: dict[str, str], request: Request) -> list[Answer]:
    """The answers to a request that keeps its handler busy, and to another one sent meanwhile."""
    started, go = server.folder / f"{model}.started", server.folder / f"{model}.go"

    def meanwhile() -> Answer:
        eventually(started.exists, f"the handler of {model} at work")
        try:
            return server.infer(request)
        finally:
            go.touch()

    busy = ask(model, {**document, "started": str(started), "go": str(go)})
    return together(lambda: server.infer(busy), meanwhile)


def test_a_job_ticket_model_refuses_what_no_worker_is_free_for(pair: Pair) -> None:
    pair.check_each(lambda server: beside_a_busy_one(server, "ticket", {}, ask("ticket", {})))
    pair.check_inference(Case("afterwards", ask("ticket", {})))


def test_an_explicit_version_without_a_ticket(pair: Pair) -> None:
    pair.check_each(
        lambda server: beside_a_busy_one(server, "ticket_2", {}, ask("ticket_2", {}, target="/predictions/{}/1.0"))
    )


# --- batches ---


def member(name: str, **options: object) -> Request:
    return ask("batch", {"name": name, **options})


@pytest.mark.parametrize(
    "members",
    [
        [member("a"), member("b"), member("c")],
        [member("a", status=201, phrase="Made"), member("b"), member("c", status=404, phrase="Gone")],
    ],
    ids=["three", "a status each"],
)
def test_a_full_batch(pair: Pair, members: Sequence[Request]) -> None:
    pair.check_each(at_once(*members))


def test_the_error_of_one_member_of_a_batch(pair: Pair) -> None:
    theirs, ours = pair.both(at_once(member("a"), member("b", fail=True), member("c")))
    check(theirs[1], ours[1])
    for index in (0, 2):
        check(theirs[index], ours[index], Difference("One bad item in a batch", 200))
