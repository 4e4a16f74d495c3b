"""Inputs of the Open Inference Protocol as requests of the transformer handler."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.errors import PredictionException
from handlers.transformer.inputs import parse_request

# The text of KServe's BERT sample, as the sample spells it.
CODES = [66, 108, 111, 111, 109, 98, 101, 114, 103, 32, 104, 97, 115, 32, 114, 101, 112, 111, 114, 116, 101, 100]
CODES += [32, 111, 110, 32, 116, 104, 101, 32, 101, 99, 111, 110, 111, 109, 121]
TEXT = "Bloomberg has reported on the economy"


def tensor(data: Any, datatype: str = "BYTES", **others: Any) -> dict[str, Any]:
    return {"name": "input-0", "shape": [1], "datatype": datatype, "data": data, **others}


@pytest.mark.parametrize(
    "row",
    [
        tensor(TEXT),
        tensor(f'{{"text": "{TEXT}", "target": 1}}'),
        tensor(CODES, "INT64"),
        tensor([CODES], "UINT8"),
        tensor([*CODES, 0, 0], "INT32"),
    ],
)
def test_one_text(row: dict[str, Any]) -> None:
    request = parse_request(row, pair=False)
    assert [item.text for item in request.items] == [TEXT]
    assert not request.many


@pytest.mark.parametrize("row", [tensor(["ä", "b"]), tensor([[195, 164], [98, 0]], "UINT8")])
def test_several_texts(row: dict[str, Any]) -> None:
    request = parse_request(row, pair=False)
    assert [item.text for item in request.items] == ["ä", "b"]
    assert request.answer([1, 2]) == [1, 2]


def test_a_pair() -> None:
    (item,) = parse_request(tensor('{"question": "Who?", "context": "Me."}'), pair=True).items
    assert (item.text, item.context) == ("Who?", "Me.")


def test_parameters_are_options_and_the_tensors_own_keys_are_not() -> None:
    (item,) = parse_request(tensor(TEXT, parameters={"target": 1}), pair=False).items
    assert item.options == {"target": 1}
    assert parse_request(tensor(TEXT, parameters=None), pair=False).items[0].options == {}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (tensor([101, 2023, 102], "INT64"), "token ids are not taken"),
        (tensor([-1], "INT64"), "must be from 0 to 255"),
        (tensor([0.5], "FP32"), "must be from 0 to 255"),
        (tensor([[[1]]], "INT64"), "must be from 0 to 255"),
        (tensor(10**12, "INT64"), "must be from 0 to 255"),
        (tensor([255, 254], "UINT8"), "not valid UTF-8"),
        (tensor([0, 0], "UINT8"), "the text is empty"),
        (tensor([], "UINT8"), "the list of texts is empty"),
        (tensor([5, 6]), "got int '5'"),
        (tensor(TEXT, parameters=["target"]), "parameters must be an object, got list"),
    ],
)
def test_what_is_no_text(row: dict[str, Any], message: str) -> None:
    with pytest.raises(PredictionException, match=message) as caught:
        parse_request(row, pair=False)
    assert caught.value.error_code == 400
