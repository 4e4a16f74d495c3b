"""From the files of an archive to a `Network`."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from handlers.documents import read_json_object
from handlers.errors import ModelLoadError
from handlers.transformer.network import Network
from handlers.transformer.precision import choose_dtype, dtype_option
from handlers.transformer.settings import Settings
from handlers.transformer.weight_files import STANDARD_WEIGHTS, find_weights
from handlers.weights import load_torchscript, read_weights, refused_pickle

AUTO_CLASSES = {
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
    "text_generation": "AutoModelForCausalLM",
    "embedding": "AutoModel",
}

# A text that lists keys names at most so many.
_MAX_KEYS_NAMED = 5

log = logging.getLogger(__name__)


def load_network(model_dir: Path, serialized_file: str | None, settings: Settings, device: torch.device) -> Network:
    """The archive's model in evaluation mode, its weights frozen.

    Args:
        model_dir: the unpacked archive.
        serialized_file: the weights the manifest names.
        settings: the archive's.
        device: where to put it, unless it is spread.

    Raises:
        ModelLoadError: says which file, key or package is missing or wrong.
    """
    if settings.save_mode == "torchscript" or settings.hardware:
        return _load_trace(model_dir, serialized_file, settings, device)
    config = _load_config(model_dir, settings)
    spread = settings.model_parallel and can_spread(device)
    module = _load_pretrained(model_dir, serialized_file, settings, _options(settings, config, spread, device))
    if not spread:
        module.to(device)
    # Explanations need gradients of embeddings, never of weights.
    module.eval().requires_grad_(False)
    return Network(module, module.device if spread else device)


def _load_trace(model_dir: Path, serialized_file: str | None, settings: Settings, device: torch.device) -> Network:
    if settings.mode == "text_generation":
        raise ModelLoadError(
            "handler: save_mode: 'torchscript' is not allowed for text_generation: a trace has one fixed length and no "
            "generation loop; allowed: pretrained"
        )
    if serialized_file is None:
        raise ModelLoadError("handler: save_mode: torchscript needs the traced model as --serialized-file")
    if settings.dtype is not None:
        raise ModelLoadError(
            f"handler: dtype: {settings.dtype!r} is not allowed with a trace (save_mode: torchscript, hardware): it "
            "keeps the type it was made in; leave the key out and trace the model in that type"
        )
    if settings.hardware:
        _import_neuron(settings.hardware)
        return Network(
            load_torchscript(model_dir / serialized_file, torch.device("cpu")),
            torch.device("cpu"),
            True,
            settings.batch_size,
        )
    return Network(load_torchscript(model_dir / serialized_file, device), device, traced=True)


def _import_neuron(hardware: str) -> None:
    package = {"neuron": "torch_neuron", "neuronx": "torch_neuronx"}[hardware]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ModelLoadError(
            f"handler: hardware: {hardware!r} needs an AWS Neuron device and the package {package}, which is not "
            "installed here; leave the key out to run on CPU or GPU"
        ) from error


def _load_config(model_dir: Path, settings: Settings) -> Any:
    if not (model_dir / "config.json").is_file():
        raise ModelLoadError("config.json is not in the archive: add it to --extra-files")
    if "auto_map" in read_json_object(model_dir / "config.json") and not settings.trust_remote_code:
        raise ModelLoadError(
            "config.json has auto_map, code of its own to run: set handler: {trust_remote_code: true} in "
            "model-config.yaml if you trust who made the archive"
        )
    options: dict[str, Any] = {}
    if settings.mode != "text_generation":
        # One forward pass has no use for the keys and values of earlier ones.
        options["use_cache"] = False
    if settings.num_labels and settings.mode in ("sequence_classification", "token_classification"):
        options["num_labels"] = settings.num_labels
    try:
        return transformers.AutoConfig.from_pretrained(
            model_dir, local_files_only=True, trust_remote_code=settings.trust_remote_code, **options
        )
    except Exception as error:  # whatever the values of a broken file lead to
        raise ModelLoadError(f"config.json cannot be used: {_reason(error)}") from error


def _options(settings: Settings, config: Any, spread: bool, device: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained` for any kind of weights."""
    options: dict[str, Any] = {"config": config, "local_files_only": True, "output_loading_info": True}
    options["trust_remote_code"] = settings.trust_remote_code
    # Reported by _check_report, which says more than transformers' error.
    options["ignore_mismatched_sizes"] = True
    if (dtype := choose_dtype(settings.dtype, device)) is not None:
        options |= dtype_option(dtype)
    if settings.better_transformer:
        log.info("BetterTransformer: true selects PyTorch's scaled dot product attention (attn_implementation=sdpa)")
        options["attn_implementation"] = "sdpa"
    if spread:
        options["device_map"] = "auto"
    return options


def _load_pretrained(model_dir: Path, serialized_file: str | None, settings: Settings, options: dict[str, Any]) -> Any:
    # A worker's log is no terminal.
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    auto_class = getattr(transformers, AUTO_CLASSES[settings.mode])
    weights = find_weights(model_dir, serialized_file)
    try:
        module, report = _from_weights(auto_class, weights, settings, options)
    except (ModelLoadError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        raise refused_pickle(weights.name, error) from error
    except Exception as error:  # broken files, files that do not belong together, packages that are not here
        raise ModelLoadError(f"{auto_class.__name__} cannot be loaded from {weights.name}: {_reason(error)}") from error
    _check_report(report, module)
    return module


def _check_report(report: Mapping[str, Any], module: Any) -> None:
    """A head may be missing, and a pooler that only some tasks use; the body of a model may not."""
    missing = sorted(report["missing_keys"])
    if body := [key for key in missing if _is_of_body(key, module)]:
        more = f" and {len(body) - _MAX_KEYS_NAMED} more" if len(body) > _MAX_KEYS_NAMED else ""
        raise ModelLoadError(
            f"the weights do not belong to the model of config.json, a {type(module).__name__}: missing "
            f"{', '.join(body[:_MAX_KEYS_NAMED])}{more}"
        )
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        name, given, expected = mismatched[0]
        raise ModelLoadError(
            f"the weights do not fit config.json and handler: num_labels: {name} has the shape {tuple(given)} in the "
            f"file, {tuple(expected)} in the model ({len(mismatched)} such weights)"
        )
    if missing:
        log.warning("Weights without a value in the archive, set at random: %s", ", ".join(missing))


def _is_of_body(key: str, module: Any) -> bool:
    is_whole = module.base_model is module  # a model without a head
    return (is_whole or key.startswith(f"{module.base_model_prefix}.")) and "pooler." not in key


def _from_weights(auto_class: Any, weights: Path, settings: Settings, options: dict[str, Any]) -> Any:
    """Module and loading report, from weights of any name."""
    if weights.name in STANDARD_WEIGHTS:
        return auto_class.from_pretrained(
            weights.parent,
            use_safetensors="safetensors" in weights.name,
            weights_only=not settings.allow_pickle,
            **options,
        )
    state = read_weights(weights, torch.device("cpu"), settings.allow_pickle)
    with torch.device("meta"):
        model_class = type(auto_class.from_config(options["config"], trust_remote_code=settings.trust_remote_code))
    return model_class.from_pretrained(
        None, state_dict=state.state_dict() if isinstance(state, nn.Module) else state, **options
    )


def can_spread(device: torch.device) -> bool:
    """Whether `model_parallel: true` has several GPUs to use; where not, the log says so.

    Raises:
        ModelLoadError: there are several, and accelerate is missing.
    """
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if visible < 2:
        log.warning("model_parallel: true needs several GPUs and this worker sees %d; running on %s", visible, device)
        return False
    if importlib.util.find_spec("accelerate") is None:
        raise ModelLoadError("handler: model_parallel: true needs accelerate: pip install modelserver[accelerate]")
    return True


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) or type(error).__name__
