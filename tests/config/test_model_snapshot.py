"""`model_snapshot=`: as TorchServe 0.12 writes it, as people write it by hand, and damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model_server.config.errors import InvalidConfiguration
from model_server.config.model_snapshot import SnapshotModel, missing_from_stores, parse_model_snapshot

# Written by TorchServe 0.12.
TORCHSERVES = """{
  "name": "20261121121124865-shutdown.cfg",
  "modelCount": 2,
  "created": 1795263084865,
  "models": {
    "spare": {
      "1.0": {
        "defaultVersion": false,
        "marName": "spare.mar",
        "minWorkers": 1,
        "maxWorkers": 4,
        "batchSize": 2,
        "maxBatchDelay": 100,
        "responseTimeout": 120,
        "startupTimeout": 60,
        "runtimeType": "python3",
        "parallelLevel": 2
      },
      "2.0": {
        "defaultVersion": true,
        "marName": "spare_2.mar",
        "minWorkers": 0,
        "maxWorkers": 0,
        "batchSize": 3,
        "maxBatchDelay": 50,
        "responseTimeout": 30,
        "startupTimeout": 120,
        "runtimeType": "python"
      }
    }
  }
}"""
VERSIONS = json.loads(TORCHSERVES)["models"]["spare"]
# As KServe's container has it: without timeouts and runtime.
BY_HAND: dict[str, Any] = {
    "defaultVersion": True,
    "marName": "mnist.mar",
    "minWorkers": 1,
    "maxWorkers": 5,
    "batchSize": 1,
    "maxBatchDelay": 5000,
}


def document(entry: object, **more: object) -> str:
    return json.dumps({"name": "startup.cfg", "modelCount": 1, "models": {"mnist": {"1.0": entry}}} | more)


def test_torchserves_own() -> None:
    first, second = parse_model_snapshot(TORCHSERVES)
    assert first == SnapshotModel(
        name="spare",
        version="1.0",
        is_default=False,
        mar_name="spare.mar",
        min_workers=1,
        max_workers=4,
        batch_size=2,
        max_batch_delay_ms=100,
        response_timeout_s=120,
        startup_timeout_s=60,
        runtime="python3",
        parallel_level=2,
    )
    assert (second.version, second.is_default, second.source) == ("2.0", True, "spare_2.mar")
    assert (second.min_workers, second.response_timeout_s, second.parallel_level) == (0, 30, 0)


def test_what_is_written_is_torchserves_keys_in_its_order() -> None:
    for model in parse_model_snapshot(TORCHSERVES):
        assert list(model.to_json().items()) == list(VERSIONS[model.version].items())


def test_our_own_keys_come_last_and_only_where_they_say_something() -> None:
    (plain,) = parse_model_snapshot(document(BY_HAND))
    (own,) = parse_model_snapshot(document(BY_HAND | {"modelUrl": "/models/mnist", "handler": "mine.py"}))
    assert (own.source, own.handler) == ("/models/mnist", "mine.py")
    assert list(own.to_json())[: len(plain.to_json())] == list(plain.to_json())
    assert list(own.to_json())[len(plain.to_json()) :] == ["modelUrl", "handler"]


def test_one_written_by_hand_has_torchserves_defaults() -> None:
    (model,) = parse_model_snapshot(document(BY_HAND))
    assert (model.response_timeout_s, model.startup_timeout_s, model.runtime) == (120, 120, "python")
    (quoted,) = parse_model_snapshot(document(BY_HAND | {"minWorkers": "3"}))
    assert quoted.min_workers == 3


@pytest.mark.parametrize("text", [document(BY_HAND, modelCount=0), document(BY_HAND, models={}), '{"modelCount": 0}'])
def test_there_may_be_no_models(text: str) -> None:
    assert parse_model_snapshot(text) == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "model_snapshot is not JSON: "),
        ("[" * 100_000, "model_snapshot is not JSON: "),
        ("[]", "model_snapshot: expected an object in braces, found []"),
        (document(3), "model_snapshot: mnist 1.0: expected an object in braces, found 3"),
        (document(BY_HAND, models=[1]), "model_snapshot: models: expected an object in braces, found [1]"),
        (document(BY_HAND, models={"m": 1}), "model_snapshot: m: expected an object in braces, found 1"),
        (
            document(BY_HAND, modelCount="x"),
            "model_snapshot modelCount: expected a whole number of 0 or more, found 'x'",
        ),
        *(
            (
                document({key: value for key, value in BY_HAND.items() if key != name}),
                f"model_snapshot: mnist 1.0: {name} is missing",
            )
            for name in BY_HAND
        ),
        (
            document(BY_HAND | {"minWorkers": -1}),
            "model_snapshot: mnist 1.0 minWorkers: expected a whole number of 0 or more, found -1",
        ),
        (
            document(BY_HAND | {"batchSize": True}),
            "model_snapshot: mnist 1.0 batchSize: expected a whole number of 0 or more, found True",
        ),
        (
            document(BY_HAND | {"defaultVersion": "yes"}),
            "model_snapshot: mnist 1.0 defaultVersion: expected true or false, found 'yes'",
        ),
        (document(BY_HAND | {"marName": 3}), "model_snapshot: mnist 1.0 marName: expected a text, found 3"),
    ],
)
def test_a_damaged_one_is_refused_as_a_whole(text: str, reason: str) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        parse_model_snapshot(text)
    assert str(caught.value).startswith(f"Invalid configuration: {reason}")


def test_every_archive_has_to_be_in_a_store(tmp_path: Path) -> None:
    models = parse_model_snapshot(TORCHSERVES)
    stores = [tmp_path / "first", tmp_path / "second"]
    for store in stores:
        store.mkdir()
    (stores[1] / "spare.mar").write_bytes(b"junk is looked at later")
    missing = "Model archive file for model :spare, version :2.0 not found in model store"
    assert missing_from_stores(models, stores) == missing
    (stores[0] / "spare_2.mar").mkdir()
    assert missing_from_stores(models, stores) is None


def test_a_model_that_has_a_place_of_its_own_need_not(tmp_path: Path) -> None:
    models = parse_model_snapshot(document(BY_HAND | {"modelUrl": str(tmp_path / "elsewhere")}))
    assert missing_from_stores(models, [tmp_path]) is None
