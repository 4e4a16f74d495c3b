"""The example in TorchServe's layout: its README with a hub in a folder, and the demo that needs no hub."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
import yaml
from click.testing import CliRunner
from example_runs import DEADLINE_S, EXAMPLES, blocks, copy_examples, run_script
from transformers import AutoModel, PreTrainedTokenizerBase

from handlers.testing import HandlerHarness

FOLDER = "Huggingface_Transformers"
REVISION = "0" * 40

# What the README's commands have to print, as regular expressions in the order of the output.
EXPECTED = [
    # Sequence classification: prediction and explanation; its model is compiled.
    r"\n(Not )?Accepted",
    r'"words": \[\s*"\[CLS\]",\s*"the",\s*"minister",[^{]*"importances": \[[^{]*"delta": ',
    # Token classification.
    r'\[\s*\[\s*"maria",\s*"(O|[BI]-\w+)"\s*\],',
    r'"words": \[\s*"\[CLS\]",\s*"maria",[^{]*"importances": \[[^{]*"delta": ',
    # Question answering.
    r'"importances_answer_start": \[[^{]*"importances_answer_end": \[[^{]*"delta_start": [^{]*"delta_end": ',
    # Text generation.
    r"\nIn the evening the keeper",
    r'"words": \[[^{]*"output_tokens": \[[^{]*"token_importances": \[',
    # Batches by the management API, then by config.properties.
    r"registered with 3 initial workers",
    r'"minWorkers": 3,[^{]*"batchSize": 4,\s*"maxBatchDelay": 5000,',
    r"answer1.txt <==\n(Not )?Accepted\s*==> answer2.txt <==\n(Not )?Accepted\s*==> answer3.txt <==\n(Not )?Accepted",
    # A JSON body behind the envelope.
    r'"words": \[\s*"\[CLS\]",\s*"the",\s*"minister",',
    # Settings out of setup_config.json.
    r"registered with 1 initial workers",
    r"In the evening the keeper",
]

# The archiver commands of TorchServe's README, word for word but for the program's name.
ORIGINAL_COMMANDS = """
model-archiver --model-name BERTSeqClassification --version 1.0 --serialized-file Transformer_model/model.safetensors \
 --handler ./Transformer_handler_generalized.py --config-file model-config.yaml\
 --extra-files "Transformer_model/config.json,./Seq_classification_artifacts/index_to_name.json"
mkdir model_store
mv BERTSeqClassification.mar model_store/
modelserver --start --model-store model_store --models my_tc=BERTSeqClassification.mar --disable-token --ncs
curl -X POST http://127.0.0.1:8080/predictions/my_tc -T Seq_classification_artifacts/sample_text_captum_input.txt
curl -X POST http://127.0.0.1:8080/explanations/my_tc -T Seq_classification_artifacts/sample_text_captum_input.txt
modelserver --stop --foreground
"""


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the example's folder, its neighbours beside it."""
    return copy_examples(tmp_path) / FOLDER


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory, wordpiece: PreTrainedTokenizerBase, byte_level: Path) -> Path:
    """A cache in which tiny models lie under the names that the README downloads."""
    home = tmp_path_factory.mktemp("hub")
    byte_pairs = transformers.GPT2Tokenizer.from_pretrained(byte_level)
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
    bert = transformers.BertConfig(vocab_size=wordpiece.vocab_size, intermediate_size=64, **sizes)
    distilbert = transformers.DistilBertConfig(
        vocab_size=wordpiece.vocab_size, dim=32, hidden_dim=64, n_layers=2, n_heads=2
    )
    gpt2 = transformers.GPT2Config(vocab_size=len(byte_pairs), n_positions=256, n_embd=32, n_layer=2, n_head=2)
    _publish(home, "bert-base-uncased", transformers.BertModel(bert), wordpiece)
    reader = transformers.DistilBertForQuestionAnswering(distilbert)
    _publish(home, "distilbert-base-cased-distilled-squad", reader, wordpiece)
    _publish(home, "gpt2", transformers.GPT2LMHeadModel(gpt2), byte_pairs)
    return home


def _publish(home: Path, name: str, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Puts a model where huggingface_hub keeps what it has downloaded."""
    cached = home / "hub" / f"models--{name}"
    model.save_pretrained(cached / "snapshots" / REVISION)
    tokenizer.save_pretrained(cached / "snapshots" / REVISION)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(REVISION)


def _download(folder: Path, hub: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(hub or folder / "empty"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "Download_Transformer_models.py", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def _configure(folder: Path, name: str = "model-config.yaml", **handler: Any) -> dict[str, Any]:
    """Changes keys of the handler section and drops the rest of the file; returns the section."""
    section = yaml.safe_load((folder / "model-config.yaml").read_text())["handler"] | handler
    section = {key: value for key, value in section.items() if value is not None}
    (folder / name).write_text(yaml.safe_dump({"handler": section}))
    return section


def _readme_script(readme: Path) -> str:
    """Commands of the README, with the edits of model-config.yaml that it asks for in between."""
    parts = []
    for language, text in blocks(readme):
        if language == "bash":
            parts.append(text)
        elif text.startswith("handler:"):
            parts.append(f"cat > model-config.yaml <<'END'\n{text}END\n")
    return "".join(parts)


@pytest.mark.timeout(DEADLINE_S + 30)
def test_the_commands_of_the_readme(example: Path, hub: Path, tmp_path: Path) -> None:
    output = run_script(_readme_script(example / "README.md"), example, tmp_path, {"HF_HOME": str(hub)})
    position = 0
    for pattern in EXPECTED:
        found = re.compile(pattern).search(output, position)
        assert found, f"{pattern!r} is missing or in the wrong place in\n{output}"
        position = found.end()


def test_an_archive_without_a_tokenizer_fetches_it(example: Path, hub: Path, tmp_path: Path) -> None:
    _configure(example)
    script = "python Download_Transformer_models.py" + ORIGINAL_COMMANDS
    output = run_script(script, example, tmp_path, {"HF_HOME": str(hub)})
    assert re.search(r"(?s)\n(Not )?Accepted.*\"words\": \[\s*\"\[CLS\]\",", output)
    with zipfile.ZipFile(example / "model_store" / "BERTSeqClassification.mar") as archive:
        assert set(archive.namelist()) == {
            "MAR-INF/MANIFEST.json",
            "model.safetensors",
            "Transformer_handler_generalized.py",
            "model-config.yaml",
            "config.json",
            "index_to_name.json",
        }


def test_download_saves_what_the_original_saved_and_can_be_repeated(example: Path, hub: Path) -> None:
    first, second = _download(example, hub), _download(example, hub)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "exists already" not in first.stdout
    assert "Transformer_model exists already" in second.stdout
    saved = {path.name for path in (example / "Transformer_model").iterdir()}
    assert {"model.safetensors", "config.json", "vocab.txt", "tokenizer.json"} <= saved


@pytest.mark.parametrize(
    ("mode", "model_name", "labels", "architecture"),
    [
        ("sequence_classification", "bert-base-uncased", 2, "BertForSequenceClassification"),
        ("token_classification", "bert-base-uncased", 9, "BertForTokenClassification"),
        ("question_answering", "distilbert-base-cased-distilled-squad", 0, "DistilBertForQuestionAnswering"),
        ("text_generation", "gpt2", 0, "GPT2LMHeadModel"),
    ],
)
def test_download_takes_the_class_of_the_mode(
    mode: str, model_name: str, labels: int, architecture: str, example: Path, hub: Path
) -> None:
    _configure(example, "other.yaml", mode=mode, model_name=model_name, num_labels=labels)
    done = _download(example, hub, "other.yaml")
    assert done.returncode == 0, done.stderr
    config = transformers.AutoConfig.from_pretrained(example / "Transformer_model")
    assert config.architectures == [architecture]
    assert labels in (0, config.num_labels)


def test_traces_answer_as_the_models_they_were_made_from(example: Path, hub: Path) -> None:
    text = "The committee has decided to wait."
    for mode, labels in (("sequence_classification", 2), ("token_classification", 9)):
        section = _configure(example, mode=mode, num_labels=labels, captum_explanation=False)
        assert _download(example, hub).returncode == 0
        eager = HandlerHarness(
            str(example / "Transformer_handler_generalized.py"),
            example / "Transformer_model",
            {"handler": section | {"output": "scores"}},
            serialized_file="model.safetensors",
        )
        section = _configure(example, mode=mode, num_labels=labels, save_mode="torchscript")
        assert _download(example, hub).returncode == 0
        traced = HandlerHarness(
            str(example / "Transformer_handler_generalized.py"),
            example / "Transformer_model",
            {"handler": section | {"output": "scores"}},
            serialized_file="traced_model.pt",
        )
        expected = _numbers(eager.predict(text))
        assert expected
        assert _numbers(traced.predict(text)) == pytest.approx(expected, abs=1e-5)
        _configure(example, save_mode="pretrained")


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, float) else []


def test_gpt2_is_traced_with_a_warning(example: Path, hub: Path) -> None:
    _configure(example, mode="text_generation", model_name="gpt2", save_mode="torchscript")
    done = _download(example, hub)
    assert done.returncode == 0, done.stderr
    assert "the handler refuses to generate text with it" in done.stdout
    ids = torch.arange(5, 155).unsqueeze(0)
    model = transformers.GPT2LMHeadModel.from_pretrained(hub / "hub" / "models--gpt2" / "snapshots" / REVISION).eval()
    with torch.inference_mode():
        traced = torch.jit.load(example / "Transformer_model" / "traced_model.pt")(ids, torch.ones_like(ids))
        torch.testing.assert_close(traced[0], model(ids).logits, atol=1e-4, rtol=1e-4)


def test_the_torchscript_commands_of_the_readme_pack(example: Path, hub: Path, tmp_path: Path) -> None:
    _configure(example, save_mode="torchscript")
    assert _download(example, hub).returncode == 0
    commands = [text for language, text in blocks(example / "README.md") if language == "console"]
    run_script(next(text for text in commands if "traced_model.pt" in text), example, tmp_path)
    assert {path.stem for path in example.glob("*.mar")} == {
        "BERTSeqClassification",
        "BERTTokenClassification",
        "BERTQA",
    }


def test_a_hub_out_of_reach_is_one_clear_error(example: Path) -> None:
    done = _download(example, None)
    assert done.returncode == 1
    assert "bert-base-uncased cannot be fetched" in done.stderr
    assert "--offline-demo" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (example / "Transformer_model").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "translation"}, "mode: 'translation' is not allowed"),
        ({"model_name": None}, "handler: model_name is missing"),
    ],
)
def test_download_refuses_settings_it_cannot_use(changes: dict[str, Any], message: str, example: Path) -> None:
    _configure(example, **changes)
    assert message in _refusal(example)


def test_a_config_file_that_is_not_there_is_named(example: Path) -> None:
    assert "missing.yaml cannot be used" in _refusal(example, "missing.yaml")


def _refusal(folder: Path, *arguments: str) -> str:
    """What the script says when it refuses its settings: before it needs a hub, so it can run in this process."""
    main = runpy.run_path(str(folder / "Download_Transformer_models.py"))["main"]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    return result.output


def test_tracing_for_neuron_says_what_is_missing(example: Path, hub: Path) -> None:
    _configure(example, save_mode="torchscript", hardware="neuronx")
    done = _download(example, hub)
    assert done.returncode == 1
    assert "hardware: neuronx needs torch_neuronx" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_of_bert_needs_no_hub(example: Path, minilm_dir: Path) -> None:
    done = _download(example, None, "--offline-demo")
    assert done.returncode == 0, done.stderr
    assert "head nobody has trained" in done.stdout
    served = HandlerHarness(
        str(example / "Transformer_handler_generalized.py"),
        example / "Transformer_model",
        {"handler": yaml.safe_load((example / "model-config.yaml").read_text())["handler"]},
        serialized_file="model.safetensors",
    )
    assert served.predict((example / "Seq_classification_artifacts/sample_text1.txt").read_text()).startswith("LABEL_")


def test_the_demo_of_distilbert_computes_what_minilm_computes(
    minilm_dir: Path, wordpiece: PreTrainedTokenizerBase
) -> None:
    """The conversion against BERT itself; for token classification, whose demo is not trained."""
    demo = runpy.run_path(str(EXAMPLES / FOLDER / "offline_demo.py"))
    settings = SimpleNamespace(model_name="distilbert-base-uncased", mode="token_classification", num_labels=9)
    model, _ = demo["make_demo"](settings)
    inputs = wordpiece("The harbour was full of boats this morning.", return_tensors="pt")
    with torch.inference_mode():
        expected = AutoModel.from_pretrained(minilm_dir)(**inputs).last_hidden_state
        inputs.pop("token_type_ids")
        found = model.eval().base_model(**inputs).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
