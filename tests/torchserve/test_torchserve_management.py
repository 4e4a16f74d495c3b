"""The management API, step by step on a model of its own: each step finds what the ones before have left."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
from comparison import Case, Difference, check
from pairs import Endpoints, Pair
from peer_archives import HANDLERS
from wire_exchange import Answer, Request

JSON = ("Content-Type", "application/json")


def get(target: str) -> Request:
    return Request("GET", target)


def put(target: str) -> Request:
    return Request("PUT", target)


def delete(target: str) -> Request:
    return Request("DELETE", target)


def register(query: str) -> Request:
    return Request("POST", f"/models?{query}")


def register_json(document: str) -> Request:
    return Request("POST", "/models", (JSON,), (document.encode(),))


NO_JSON = Difference("Register calls whose JSON body is none", 500)

READING = [
    Case("describe", get("/models/mirror")),
    Case("describe a version", get("/models/mirror/2.0")),
    Case("describe all versions", get("/models/mirror/all")),
    Case("describe a model without a yaml", get("/models/answers")),
    Case("describe a batched model", get("/models/batch")),
    Case("describe a sequence model", get("/models/sequence")),
    Case("describe a continuous model", get("/models/continuous")),
    Case("describe a model with job tickets", get("/models/ticket")),
    Case("describe an unknown model", get("/models/nobody")),
    Case("describe an unknown version", get("/models/mirror/9.9")),
    Case("describe with a slash at the end", get("/models/mirror/")),
    Case("list", get("/models")),
    Case("list two", get("/models?limit=2")),
    Case("list from an offset", get("/models?limit=2&next_page_token=2")),
    Case("list past the end", get("/models?next_page_token=99")),
    Case("list with junk numbers", get("/models?limit=x&next_page_token=y")),
    Case("list with negative numbers", get("/models?limit=-1&next_page_token=-1")),
    Case("KServe readiness", get("/v1/models/mirror")),
    Case("KServe readiness of an unknown model", get("/v1/models/nobody")),
    Case("the options of an unknown model", Request("OPTIONS", "/models/nobody")),
    Case("root", get("/")),
    Case("an unknown path", get("/nothing")),
    Case("post to a model", Request("POST", "/models/mirror")),
    Case("put to all models", put("/models")),
    Case("set-default of an unknown model", put("/models/nobody/1.0/set-default")),
    Case("set-default of an unknown version", put("/models/mirror/9.9/set-default")),
    Case("scale an unknown model", put("/models/nobody?min_worker=1")),
    Case("scale an unknown version", put("/models/mirror/9.9?min_worker=1")),
    Case("scale with max below min", put("/models/mirror?min_worker=2&max_worker=1")),
    Case("scale with a negative max", put("/models/mirror?max_worker=-1")),
    Case("scale to a negative min", put("/models/mirror?min_worker=-1"), Difference("`min_worker=-1`", 400)),
    Case("scale to what is there", put("/models/mirror?min_worker=1&synchronous=true")),
    Case("scale a version to what is there", put("/models/mirror/2.0?min_worker=1&synchronous=true")),
    Case("scale without waiting", put("/models/mirror?min_worker=1")),
    Case("scale with junk", put("/models/mirror?min_worker=x&synchronous=TRUE")),
    Case("unregister an unknown model", delete("/models/nobody")),
    Case("unregister an unknown version", delete("/models/mirror/9.9")),
    Case("unregister the default version", delete("/models/mirror")),
    Case("unregister the default version by name", delete("/models/mirror/1.0")),
    Case("register nothing", Request("POST", "/models")),
    Case("register an empty url", register("url=")),
    Case("register an unknown archive", register("url=nothing.mar")),
    Case("register outside the store", register("url=../spare.mar")),
    Case(
        "register a url that is none",
        register("url=http://localhost:aaaa"),
        Difference("`http(s)://` and `file://` urls", 404),
    ),
    Case("register a wrong runtime", register("url=spare.mar&runtime=python4")),
    Case("register what is there", register("url=mirror.mar")),
    Case("register with broken JSON", register_json('{"url": '), NO_JSON),
    Case("register with empty JSON", register_json(""), NO_JSON),
    Case("register with JSON of a wrong type", register_json('{"url": "spare.mar", "batch_size": "x"}'), NO_JSON),
]


@pytest.mark.parametrize("case", READING, ids=str)
def test_calls_that_change_nothing(pair: Pair, case: Case) -> None:
    pair.check_management(case)


def walk(pair: Pair, cases: Sequence[Case]) -> None:
    """Both servers take all steps, each at its own pace; then the answers are compared."""

    def take(server: Endpoints) -> list[Answer]:
        return [server.manage(case.request) for case in cases]

    theirs, ours = pair.both(take)
    for case, their_answer, our_answer in zip(cases, theirs, ours, strict=True):
        try:
            check(their_answer, our_answer, case.differs)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from None


def test_the_life_of_a_model(pair: Pair) -> None:
    walk(
        pair,
        [
            Case("register without workers", register("url=spare.mar&initial_workers=0")),
            Case("describe it", get("/models/spare")),
            Case("KServe says it is not ready", get("/v1/models/spare")),
            Case("register it again", register("url=spare.mar")),
            Case("describe what no worker can", get("/models/spare?customized=true")),
            Case("scale it up and wait", put("/models/spare?min_worker=1&synchronous=true")),
            Case("describe it with a worker", get("/models/spare")),
            Case("register its second version", register("url=spare_2.mar&batch_size=4&max_batch_delay=50")),
            Case("describe both", get("/models/spare/all")),
            Case("the first is still the default", get("/models/spare")),
            Case("a default version stays", delete("/models/spare/1.0")),
            Case("make the second the default", put("/models/spare/2.0/set-default")),
            Case("describe the new default", get("/models/spare")),
            Case("unregister the first", delete("/models/spare/1.0")),
            Case("unregister the last", delete("/models/spare")),
            Case("it is gone", get("/models/spare")),
        ],
    )


def test_registrations_with_parameters(pair: Pair) -> None:
    walk(
        pair,
        [
            Case("with a worker", register("url=spare_2.mar&initial_workers=1&model_name=renamed&response_timeout=33")),
            Case("describe it", get("/models/renamed")),
            Case("scale down", put("/models/renamed?min_worker=0&max_worker=0&synchronous=true")),
            Case("unregister", delete("/models/renamed/2.0?synchronous=true")),
            Case(
                "with junk",
                register("url=spare_2.mar&batch_size=dd&max_batch_delay=junk&initial_workers=-1&synchronous=Nan"),
            ),
            Case("describe the junk", get("/models/spare")),
            Case("unregister the junk", delete("/models/spare/")),
            Case(
                "by JSON",
                register_json("{'url': 'spare_2.mar', 'model_name': 'json', 'batch_size': '3', 'max_batch_delay': 7}"),
            ),
            Case("describe JSON's", get("/models/json")),
            Case("unregister JSON's", delete("/models/json")),
            Case("a handler of its own", register("url=spare_2.mar&model_name=handler&handler=nothing")),
            Case("which cannot be loaded", put("/models/handler?min_worker=1&synchronous=true")),
            Case("unregister that", delete("/models/handler")),
        ],
    )


def test_a_model_that_does_not_load(pair: Pair) -> None:
    """TorchServe undoes the registration as ours does, or fails to: its clean-up interrupts itself."""
    pair.check_management(Case("register", register("url=broken.mar&initial_workers=1&synchronous=true")))


def test_the_description_that_a_handler_adds(pair: Pair) -> None:
    theirs, ours = pair.both(lambda server: server.manage(get("/models/insights?customized=true")))
    check(theirs, ours)
    assert json.loads(theirs.body)[0]["customizedMetadata"] == {"inputs": ["values"], "ready": True}


def test_an_archive_of_torch_model_archiver(pair: Pair, torch_model_archiver: Callable[..., None]) -> None:
    """Made by the tool that the archives of the world were made by, as zip and as tar.gz."""
    handler = str(HANDLERS / "mirror")
    torch_model_archiver("--model-name", "original", "--version", "3", "--handler", handler)
    torch_model_archiver("--model-name", "packed", "--version", "3", "--handler", handler, "--archive-format", "tgz")
    walk(
        pair,
        [
            Case("register the zip", register("url=original.mar&initial_workers=1")),
            Case("describe it", get("/models/original")),
            Case("register the tar.gz", register("url=packed.tar.gz&initial_workers=1")),
            Case("describe that", get("/models/packed")),
        ],
    )
    for name in ("original", "packed"):
        request = Request("POST", f"/predictions/{name}", (("Surroundings", "1"),), (b"x",))
        pair.check_inference(Case(f"predict with {name}", request))
        pair.check_management(Case(f"unregister {name}", delete(f"/models/{name}")))
