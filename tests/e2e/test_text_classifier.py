"""text_classifier through the real server, in batches, against plain torch."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from servers import Server, Servers, error_of, together

from archiver.pack import PackRequest, pack

MODEL_FILE = """
import torch
from torch import nn


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(12, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, ids, offsets):
        return self.fc(torch.tanh(self.embedding(ids, offsets)))
"""
TOKENS = ["<unk>", "good", "bad", "film", "a", "a good", "good film", "a bad", "bad film"]

# Indices of the words and of their pairs in TOKENS, by hand.
TEXTS = {"good": [1], "A <i>bad</i> film!": [4, 2, 3, 7, 8], "a good film": [4, 1, 3, 5, 6], "film": [3]}


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = {"embedding.weight": (12, 4), "fc.weight": (2, 4), "fc.bias": (2,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def plain_answer(ids: list[int]) -> dict[str, float]:
    state = weights()
    scores = state["fc.weight"] @ torch.tanh(state["embedding.weight"][ids].mean(0)) + state["fc.bias"]
    return dict(zip(["praise", "blame"], scores.softmax(0).tolist(), strict=True))


def plain_importances(ids: list[int], target: int) -> list[float]:
    """Integrated gradients by a sum over many small steps of the straight line between the two bags."""
    state = weights()
    bag, baseline = state["embedding.weight"][ids].mean(0), state["embedding.weight"][0]
    steps = torch.linspace(0.0005, 0.9995, 1000)[:, None]
    slopes = 1 - torch.tanh(baseline + steps * (bag - baseline)) ** 2
    attributions = (bag - baseline) * slopes.mean(0) * state["fc.weight"][target]
    return attributions.softmax(0).tolist()


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def server(module_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Server:
    inputs, store = tmp_path_factory.mktemp("inputs"), module_servers.archives.folder
    files = {
        "model.py": MODEL_FILE.encode(),
        "model.pt": saved(weights()),
        "source_vocab.pt": saved(TOKENS),
        "index_to_name.json": b'{"0": "praise", "1": "blame"}',
        "model-config.yaml": b"{batchSize: 8, maxBatchDelay: 200, batchingPolicy: fixed}",
    }
    for name, content in files.items():
        (inputs / name).write_bytes(content)
    store.mkdir()
    request = PackRequest(
        "bag",
        handler="text_classifier",
        version="1.0",
        model_file=str(inputs / "model.py"),
        serialized_file=str(inputs / "model.pt"),
        config_file=str(inputs / "model-config.yaml"),
        extra_files=f"{inputs}/source_vocab.pt,{inputs}/index_to_name.json",
        export_path=str(store),
    )
    pack(request)
    return module_servers.start(models=["bag.mar"], environment={"OMP_NUM_THREADS": "1"})


def test_every_request_of_a_batch_gets_its_own_answer(server: Server) -> None:
    answers = server.predict_together("bag", [text.encode() for text in TEXTS])
    for answer, ids in zip(answers, TEXTS.values(), strict=True):
        assert answer.status_code == 200
        assert answer.json() == pytest.approx(plain_answer(ids), abs=1e-6)


def test_bad_requests_do_their_neighbours_no_harm(server: Server) -> None:
    refusals = {b"": "holds no text", b"\xff": "not valid UTF-8", b"<p></p>": "has no words"}
    bodies = [*refusals, *(text.encode() for text in TEXTS)]
    answers = server.predict_together("bag", bodies)
    for answer, message in zip(answers, refusals.values(), strict=False):
        code, kind, text = error_of(answer)
        assert (code, kind) == (400, "InternalServerException")
        assert message in text
    for answer, ids in zip(answers[len(refusals) :], TEXTS.values(), strict=True):
        assert answer.json() == pytest.approx(plain_answer(ids), abs=1e-6)


def test_explanations_of_concurrent_requests(server: Server) -> None:
    def explain(text: str, target: int) -> Any:
        return server.infer("POST", "explanations/bag", json={"data": text, "target": target}).json()

    cases = [(text, target) for text in TEXTS for target in (0, 1)]
    explanations = together(*(lambda case=case: explain(*case) for case in cases))
    for (text, target), explanation in zip(cases, explanations, strict=True):
        assert explanation["importances"] == [pytest.approx(plain_importances(TEXTS[text], target), abs=1e-4)]
    assert explanations[2]["words"] == ["a", "bad", "film"]
