"""Fetches the model that model-config.yaml names and saves it in ./Transformer_model, ready for model-archiver.

Without a hub, `--offline-demo` makes a small model of the same kind, see offline_demo.py.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import click
import torch
import transformers
import yaml
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from handlers.errors import ModelLoadError
from handlers.transformer.loading import AUTO_CLASSES
from handlers.transformer.settings import Settings, load_settings

HERE = Path(__file__).resolve().parent
OUTPUT = Path("Transformer_model")
SEED = 1
DEFAULT_MAX_LENGTH = 150

# A trace does not depend on what it is made with, only on its shape.
TRACED_TEXT = "A sentence to trace the model with."
NEURON_PACKAGES = {"neuron": "torch_neuron", "neuronx": "torch_neuronx"}


@click.command()
@click.argument("config_file", default="model-config.yaml")
@click.option("--offline-demo", is_flag=True, help="Make a small model of the same kind instead of downloading one.")
def main(config_file: str, offline_demo: bool) -> None:
    """Save model and tokenizer in ./Transformer_model.

    CONFIG_FILE is looked for in this script's folder; its section `handler` says which model, for what and how to save
    it.
    """
    settings = read_settings(HERE / config_file)
    if OUTPUT.exists():
        print(f"{OUTPUT} exists already; files of the same names are replaced.")
    torch.manual_seed(SEED)
    model, tokenizer = _make_demo(settings) if offline_demo else _download(settings)
    OUTPUT.mkdir(exist_ok=True)
    _save_tokenizer(tokenizer)
    if settings.save_mode == "torchscript":
        _save_trace(model, tokenizer, settings)
    else:
        model.save_pretrained(OUTPUT)
    print(f"Saved in {OUTPUT}: {', '.join(sorted(path.name for path in OUTPUT.iterdir()))}")


def read_settings(path: Path) -> Settings:
    """The section `handler` of the file, checked as the handler will check it; exits with what is wrong."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings = load_settings((document or {}).get("handler"), path.parent)
    except (OSError, yaml.YAMLError, AttributeError, ModelLoadError) as error:
        sys.exit(f"{path} cannot be used: {error}")
    if settings.model_name is None:
        sys.exit(f"{path}: handler: model_name is missing; name a model of the hub, bert-base-uncased say")
    return settings


def _download(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    print(f"Fetching {settings.model_name} for {settings.mode} ...", flush=True)
    auto_class: Any = getattr(transformers, AUTO_CLASSES[settings.mode])
    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.model_name, **_tokenizer_options(settings))
        model = auto_class.from_pretrained(settings.model_name, **_model_options(settings))
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        sys.exit(
            f"{settings.model_name} cannot be fetched: {reason}\n"
            "Check the name and the connection, or make a small stand-in without the hub:\n"
            "  python Download_Transformer_models.py --offline-demo"
        )
    return model, tokenizer


def _tokenizer_options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    return options if settings.do_lower_case is None else {**options, "do_lower_case": settings.do_lower_case}


def _model_options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    if settings.num_labels and settings.mode in ("sequence_classification", "token_classification"):
        options["num_labels"] = settings.num_labels
    return options


def _make_demo(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from offline_demo import make_demo  # needs the neighbouring examples, which a download does not

    return make_demo(settings)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.save_pretrained(OUTPUT)
    if tokenizer.is_fast:
        # The vocabulary on its own, too: vocab.txt, or vocab.json and merges.txt.
        tokenizer.backend_tokenizer.model.save(str(OUTPUT))


class _ByPosition(nn.Module):
    """Takes ids and mask by position and gives a tuple, as traces do; models differ in the order of their arguments."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True).to_tuple()


def _save_trace(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Settings) -> None:
    if settings.mode == "text_generation":
        print("Note: a trace has one fixed length, so the handler refuses to generate text with it; use pretrained.")
    model.config.use_cache = False
    rows = settings.batch_size if settings.hardware else 1
    inputs = _traced_inputs(tokenizer, settings.max_length or DEFAULT_MAX_LENGTH, rows)
    print(f"Tracing {rows} x {inputs[0].shape[1]} tokens ...", flush=True)
    with torch.no_grad():
        traced = _trace(_ByPosition(model).eval(), inputs, settings.hardware)
    name = "traced_model.pt"
    if settings.hardware:
        name = f"traced_{settings.model_name}_model_{settings.hardware}_batch_{rows}.pt".replace("/", "_")
    torch.jit.save(traced, OUTPUT / name)


def _traced_inputs(tokenizer: PreTrainedTokenizerBase, length: int, rows: int) -> tuple[Tensor, Tensor]:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    encoded = tokenizer(
        [TRACED_TEXT] * rows, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    return encoded["input_ids"], encoded["attention_mask"]


def _trace(module: nn.Module, inputs: tuple[Tensor, Tensor], hardware: str | None) -> Any:
    if hardware is None:
        trace: Any = torch.jit.trace
        return trace(module, inputs, strict=False)
    package = NEURON_PACKAGES[hardware]
    try:
        neuron = importlib.import_module(package)
    except ImportError:
        sys.exit(
            f"handler: hardware: {hardware} needs {package}, which AWS installs on its Neuron machines; it is not "
            "installed here. Leave the key out to trace for CPU and GPU."
        )
    return neuron.trace(module, inputs)


if __name__ == "__main__":
    main()
