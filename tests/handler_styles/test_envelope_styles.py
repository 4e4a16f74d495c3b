"""Archives that TorchServe's examples serve with `service_envelope=body`: JSON in, predictions and explanations."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from captum.attr import IntegratedGradients, LayerIntegratedGradients
from PIL import Image
from servers import Server, Servers, together
from style_workshop import JSON, Workshop, base64_text, load_network, pixels, png

NEWS = {"0": "World", "1": "Sports", "2": "Business", "3": "Sci/Tec"}
VOCABULARY = ["<unk>", "bloomberg", "has", "reported", "on", "the", "economy", "bloomberg has", "the economy"]
TEXT = "Bloomberg has reported on the <b>economy</b>!"
IDS = [1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 8]  # the words, then their pairs
WORDS = ["bloomberg", "has", "reported", "on", "the", "economy"]


@pytest.fixture(scope="module")
def server(module_servers: Servers, workshop: Workshop) -> Server:
    news = load_network("text_classification/model.py", "TextClassificationModel")
    torch.save({token: index for index, token in enumerate(VOCABULARY)}, workshop.inputs / "source_vocab.pt")
    models = [
        workshop.pack(
            "my_text_classifier",
            "text_classifier",
            model_file="text_classification/model.py",
            serialized_file=workshop.weights("model.pt", news),
            extra=[workshop.file("index_to_name.json", NEWS), workshop.inputs / "source_vocab.pt"],
        ),
        workshop.pack(
            "mnist",
            "mnist/mnist_handler.py",
            model_file="mnist/mnist.py",
            serialized_file=workshop.weights("mnist_cnn.pt", load_network("mnist/mnist.py", "Net")),
        ),
    ]
    return module_servers.start(models, {"service_envelope": "body"}, environment={"OMP_NUM_THREADS": "1"})


def ask(server: Server, kind: str, name: str, body: Any) -> Any:
    answer = server.infer("POST", f"{kind}/{name}", data=json.dumps(body), headers=JSON)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_news_are_classified(server: Server) -> None:
    news: Any = load_network("text_classification/model.py", "TextClassificationModel")
    with torch.no_grad():
        probabilities = news.fc(news.embedding.weight[IDS].mean(0)).softmax(0).tolist()
    expected = pytest.approx(dict(zip(NEWS.values(), probabilities, strict=True)), abs=1e-5)
    assert ask(server, "predictions", "my_text_classifier", {"data": TEXT}) == expected
    assert ask(server, "predictions", "my_text_classifier", {"body": TEXT}) == expected
    assert list(ask(server, "predictions", "my_text_classifier", {"data": TEXT})) == list(NEWS.values())


def test_the_words_of_news_are_explained(server: Server) -> None:
    news: Any = load_network("text_classification/model.py", "TextClassificationModel")
    ids = torch.tensor(IDS)
    method = LayerIntegratedGradients(news, news.embedding)
    offsets = torch.tensor([0])
    attributions = method.attribute(ids, torch.zeros_like(ids), target=2, additional_forward_args=(offsets,))
    rows = attributions.softmax(-1)
    importances = (rows / rows.sum(-1).norm()).tolist()
    insight = ask(server, "explanations", "my_text_classifier", {"data": TEXT, "target": 2})
    assert insight["words"] == WORDS
    assert insight["importances"] == [pytest.approx(row, abs=1e-4) for row in importances]


def test_digits_in_json(server: Server) -> None:
    image = Image.linear_gradient("L").resize((28, 28))
    values = (pixels(image) - 0.1307) / 0.3081
    network = load_network("mnist/mnist.py", "Net")
    body = {"data": base64_text(png(image)), "target": 4}
    digit, explanation = together(
        lambda: ask(server, "predictions", "mnist", body), lambda: ask(server, "explanations", "mnist", body)
    )
    assert digit == int(network(values[None]).argmax())
    expected = IntegratedGradients(network).attribute(values[None], target=4, n_steps=15)[0].detach().float()
    torch.testing.assert_close(torch.tensor(explanation), expected, rtol=1e-3, atol=1e-4)
