"""Handlers of texts as TorchServe's users write them, against plain transformers, torch and Captum."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import LayerIntegratedGradients
from servers import Server, Servers
from style_workshop import JSON, TEXT, Workshop, load_pretrained, load_tokenizer
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    T5Config,
    T5ForConditionalGeneration,
)
from wheels import write_source

SENTENCES = ["Bloomberg has reported on the economy", "It was a fine day", "No."]
NAMES = {"0": "Not Accepted", "1": "Accepted"}
ENTITIES = ["O", "B-MISC", "I-MISC"]
QUESTION = {"question": "What is nice?", "context": "Not a real context, but the weather is nice in Paris."}
PAGE = "The sun is yellow and hot. Whales swim in cold water. Wood burns."
WORDS = {"good": "gut", "morning": "Morgen", "world": "Welt"}


class CharacterClassifier(torch.nn.Module):
    """Three scores of each text: its length, and how many a and e it has."""

    def forward(self, texts: list[str]) -> torch.Tensor:
        rows = [[float(len(text)) / 10, float(text.count("a")), float(text.count("e"))] for text in texts]
        return torch.tensor(rows)


@pytest.fixture(scope="module")
def t5(workshop: Workshop, minilm_dir: Path) -> Path:
    folder = workshop.inputs / "t5"
    tokenizer = load_tokenizer(minilm_dir)
    torch.manual_seed(1)
    sizes: dict[str, Any] = {
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": 1,
        "num_heads": 2,
        "initializer_factor": 3.0,
        "decoder_start_token_id": 0,
    }
    model = T5ForConditionalGeneration(T5Config(vocab_size=tokenizer.vocab_size, **sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Folders:
    """Where the small models of this module lie."""

    def __init__(self, model_dirs: Callable[..., Path], t5: Path) -> None:
        self.sequence = model_dirs("bert", "ForSequenceClassification", num_labels=2)
        self.tokens = model_dirs("bert", "ForTokenClassification", num_labels=3)
        self.question = model_dirs("distilbert", "ForQuestionAnswering")
        self.generation = model_dirs("gpt2", "LMHeadModel")
        self.embedding = model_dirs("bert", "Model")
        self.t5 = t5


@pytest.fixture(scope="module")
def folders(model_dirs: Callable[..., Path], t5: Path) -> Folders:
    return Folders(model_dirs, t5)


@pytest.fixture(scope="module")
def server(module_servers: Servers, workshop: Workshop, folders: Folders, minilm_dir: Path) -> Server:
    models = [*transformer_archives(workshop, folders, minilm_dir / "vocab.txt"), *other_archives(workshop, folders)]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PIP_NO_CACHE_DIR": "1"}
    config = {
        "models": json.dumps({"BERTSeqClassification": {"1.0": {"batchSize": 4, "maxBatchDelay": 100}}}),
        "install_py_dep_per_model": "true",
        "requirements_cache": workshop.inputs / "environments",
    }
    return module_servers.start(models, config, environment=environment)


def settings(mode: str, model_name: str, captum: bool, **changes: Any) -> dict[str, Any]:
    handler = {
        "model_name": model_name,
        "mode": mode,
        "do_lower_case": True,
        "num_labels": 2,
        "save_mode": "pretrained",
        "max_length": 40,
        "captum_explanation": captum,
        "embedding_name": "bert",
        "BetterTransformer": False,
        "model_parallel": False,
    }
    return {"minWorkers": 1, "maxWorkers": 1, "handler": {**handler, **changes}}


def transformer_archives(workshop: Workshop, folders: Folders, vocabulary: Path) -> list[str]:
    handler = "huggingface/Transformer_handler_generalized.py"
    names = workshop.file("index_to_name.json", NAMES)

    def pretrained(name: str, folder: Path, config: dict[str, Any], *extra: Path) -> str:
        files = [path for path in sorted(folder.iterdir()) if path.suffix != ".safetensors"]
        weights = folder / "model.safetensors"
        return workshop.pack(name, handler, config, [*files, *extra], serialized_file=weights)

    generation = settings("text_generation", str(folders.generation), False, max_length=5)
    return [
        pretrained(
            "BERTSeqClassification",
            folders.sequence,
            settings("sequence_classification", "bert-base-uncased", True),
            names,
            vocabulary,
        ),
        pretrained(
            "BERTQA", folders.question, settings("question_answering", "distilbert-base-uncased", True), vocabulary
        ),
        pretrained("Textgeneration", folders.generation, generation),
        token_archive(workshop, folders.tokens),
    ]


def token_archive(workshop: Workshop, folder: Path) -> str:
    model = AutoModelForTokenClassification.from_pretrained(folder, return_dict=False).eval()
    ids = torch.ones(1, 24, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, (ids, ids)).save(str(workshop.inputs / "traced_model.pt"))  # type: ignore[no-untyped-call]
    config = {"model_name": "bert-base-cased", "mode": "token_classification", "do_lower_case": "True"}
    written = {**config, "num_labels": "3", "save_mode": "torchscript", "max_length": "24"}
    extra = [
        workshop.file("setup_config.json", written),
        workshop.file("tokens/index_to_name.json", {"label_list": f"[{', '.join(ENTITIES)}]"}),
        *(path for path in sorted(folder.iterdir()) if path.suffix != ".safetensors"),
    ]
    handler = "huggingface/Transformer_handler_setup_config.py"
    return workshop.pack("BERTTokens", handler, extra=extra, serialized_file=workshop.inputs / "traced_model.pt")


def other_archives(workshop: Workshop, folders: Folders) -> list[str]:
    rag = {"url_to_scrape": "page.txt", "chunk_size": 6, "chunk_overlap": 1, "topk": 1, "manual_seed": 42}
    t5 = {
        "deviceType": "cpu",
        "pt2": {"compile": {"enable": True, "backend": "eager"}},
        "handler": {"max_length": 6, "mode": "translation", "profile": True},
    }
    labels = workshop.file("scripted/index_to_name.json", {"object_type_names": ["World", "Sports", "Sci/Tec"]})
    pack = workshop.pack
    return [
        pack("instructor", "instruction_embedding/instructor-embedding-handler.py", extra=[folders.embedding]),
        pack("T5", "t5_compiled/T5_handler.py", t5, [folders.t5]),
        translator(workshop),
        pack(
            "scriptable_tokenizer",
            "scriptable_tokenizer/handler.py",
            {"batchSize": 4, "maxBatchDelay": 100},
            [labels],
            serialized_file=workshop.scripted("model_jit.pt", CharacterClassifier()),
        ),
        pack("rag", "rag/rag_handler.py", {"handler": rag}, [workshop.file("page.txt", PAGE)]),
    ]


def translator(workshop: Workshop) -> str:
    source = write_source(workshop.inputs, "3.0", "pass")
    torch.save(WORDS, workshop.inputs / "model.pt")
    return workshop.pack(
        "TransformerEn2De",
        "nmt_transformer/model_handler_generalized.py",
        extra=[source, workshop.file("nmt/setup_config.json", {"source": "english", "target": "german"})],
        serialized_file=workshop.inputs / "model.pt",
        requirements_file=workshop.file("requirements.txt", f"--no-index\n./{source.name}\n"),
    )


def ids_of(folder: Path, *texts: str, **arguments: Any) -> Any:
    return load_tokenizer(folder)(*texts, return_tensors="pt", **arguments)


# --- Huggingface_Transformers ---


def test_the_label_of_a_text_with_captum_on(server: Server, folders: Folders) -> None:
    model = load_pretrained(AutoModelForSequenceClassification, folders.sequence)
    bodies = [repr({"text": text, "target": 1}) for text in SENTENCES]
    answers = server.predict_together("BERTSeqClassification", bodies)
    for answer, text in zip(answers, SENTENCES, strict=True):
        with torch.no_grad():
            expected = NAMES[str(int(model(**ids_of(folders.sequence, text)).logits.argmax()))]
        assert (answer.status_code, answer.text) == (200, expected)
    assert server.describe("BERTSeqClassification")[0]["batchSize"] == 4


def test_words_of_a_text_are_explained(server: Server, folders: Folders) -> None:
    model = load_pretrained(AutoModelForSequenceClassification, folders.sequence)
    tokenizer = load_tokenizer(folders.sequence)
    ids = ids_of(folders.sequence, SENTENCES[0])["input_ids"]
    baseline = torch.tensor([[101, *[0] * (ids.shape[1] - 2), 102]])  # [CLS] [PAD] … [SEP]
    method = LayerIntegratedGradients(lambda ids: model(ids).logits, model.bert.embeddings)
    attributions, delta = method.attribute(ids, baseline, target=1, return_convergence_delta=True)
    importances = attributions.sum(-1)[0]
    body = repr({"text": SENTENCES[0], "target": 1})
    answers = [server.infer("POST", "explanations/BERTSeqClassification", data=body) for _ in range(2)]
    for answer in answers:
        assert list(answer.json()) == ["words", "importances", "delta"]
        assert answer.json()["words"] == tokenizer.convert_ids_to_tokens(ids[0])
        assert answer.json()["importances"] == pytest.approx((importances / importances.norm()).tolist(), abs=1e-3)
        assert answer.json()["delta"] == pytest.approx(float(delta), abs=1e-2)


def test_an_answer_is_a_part_of_the_context(server: Server, folders: Folders) -> None:
    model = load_pretrained(AutoModelForQuestionAnswering, folders.question)
    tokenizer = load_tokenizer(folders.question)
    encoded = ids_of(folders.question, QUESTION["question"], QUESTION["context"], padding="max_length", max_length=40)
    with torch.no_grad():
        output = model(encoded["input_ids"], encoded["attention_mask"])
    span = encoded["input_ids"][0][int(output.start_logits.argmax()) : int(output.end_logits.argmax()) + 1]
    expected = tokenizer.convert_tokens_to_string(tokenizer.convert_ids_to_tokens(span))
    for headers in ({}, TEXT):
        assert server.predict("BERTQA", repr(QUESTION), headers=headers).text == expected


def test_json_breaks_the_original_example_and_only_its_request(server: Server) -> None:
    answer = server.predict("BERTQA", json.dumps(QUESTION), headers=JSON)
    assert (answer.status_code, answer.json()["type"]) == (503, "InternalServerException")
    assert answer.json()["message"].startswith("Prediction failed")


def test_a_text_goes_on(server: Server, folders: Folders) -> None:
    model = load_pretrained(AutoModelForCausalLM, folders.generation)
    encoded = ids_of(folders.generation, SENTENCES[1])
    output = model.generate(**encoded, do_sample=False, max_new_tokens=5)
    expected = load_tokenizer(folders.generation).decode(output[0], skip_special_tokens=True)
    assert server.predict("Textgeneration", SENTENCES[1]).content.decode() == expected


def test_entities_of_a_traced_model_with_setup_config(server: Server, folders: Folders) -> None:
    model = load_pretrained(AutoModelForTokenClassification, folders.tokens)
    tokenizer = load_tokenizer(folders.tokens)
    encoded = ids_of(folders.tokens, SENTENCES[0], padding="max_length", max_length=24)
    with torch.no_grad():
        labels = model(encoded["input_ids"], encoded["attention_mask"]).logits.argmax(2)[0].tolist()
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])
    expected = [[token, ENTITIES[label]] for token, label in zip(tokens, labels, strict=True)]
    assert server.predict("BERTTokens", SENTENCES[0]).json() == expected


# --- others ---


def test_embeddings_of_a_handler_with_a_hyphen_in_its_file(server: Server, folders: Folders) -> None:
    pairs = [["Represent the title:", SENTENCES[0]], ["Represent the day:", SENTENCES[1]]]
    model = load_pretrained(AutoModel, folders.embedding)
    vectors = []
    for pair in pairs:
        with torch.no_grad():
            mean = model(**ids_of(folders.embedding, " ".join(pair))).last_hidden_state.mean(1)
        vectors.append((mean / mean.norm())[0].tolist())
    single = server.predict("instructor", json.dumps({"inputs": pairs[0]}), headers=JSON)
    several = server.predict("instructor", json.dumps({"inputs": pairs}), headers=JSON)
    assert single.json() == [pytest.approx(vectors[0], abs=1e-4)]
    assert several.json() == [pytest.approx(vector, abs=1e-4) for vector in vectors]


def test_a_compiled_encoder(server: Server, folders: Folders) -> None:
    model = load_pretrained(T5ForConditionalGeneration, folders.t5)
    ids = ids_of(folders.t5, "translation: " + SENTENCES[1])["input_ids"]
    output = model.generate(ids, do_sample=False, max_new_tokens=6)
    expected = load_tokenizer(folders.t5).decode(output[0], skip_special_tokens=True)
    answer = server.predict("T5", json.dumps({"text": SENTENCES[1]}), headers=JSON)
    assert answer.json() == {"text": expected} and expected


def test_a_library_that_the_archive_brings_along(server: Server) -> None:
    answer = server.predict("TransformerEn2De", "good morning dear world")
    assert json.loads(answer.text) == {
        "english_input": "good morning dear world",
        "german_output": "gut Morgen dear Welt",
    }
    assert "\n" not in answer.text  # the handler's own JSON, not written anew
    assert "Translating with msdemo 3.0" in server.log_text()


def test_texts_go_into_torchscript(server: Server) -> None:
    texts = ["A <b>banana</b> tree", "Every evening", "x"]
    answers = server.predict_together("scriptable_tokenizer", [text.encode() for text in texts])
    cleaned = ["a banana tree", "every evening", "x"]
    for answer, text in zip(answers, cleaned, strict=True):
        scores = torch.tensor([len(text) / 10, text.count("a"), text.count("e")]).softmax(0).tolist()
        assert answer.json() == pytest.approx(dict(zip(["World", "Sports", "Sci/Tec"], scores, strict=True)), abs=1e-5)


def test_a_prompt_with_the_passage_next_to_the_question(server: Server) -> None:
    answer = server.predict("rag", "whales in cold water")
    # Chunks of six words, each beginning with the last one of the chunk before.
    passage = "hot. Whales swim in cold water."
    assert answer.text == f"Use the following context to answer.\n{passage}\nQuestion: whales in cold water\nAnswer:"
