"""Weights on disk to a module in memory.

Formats: a state dict (`.pt`, `.pth`, `.bin`, read with `weights_only=True`), safetensors, TorchScript (`.pt`), exported
programs (`.pt2`). A full pickle runs code when it is read, so it needs `handler: {allow_pickle: true}` in
model-config.yaml, and so does an exported program: torch unpickles parts of it and evaluates its symbolic shapes.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from handlers.errors import ModelLoadError
from handlers.modules import classes_defined_in, load_module


def load_torchscript(path: Path, device: torch.device) -> nn.Module:
    """A TorchScript archive, in evaluation mode.

    Raises:
        ModelLoadError: the file is missing or is no TorchScript archive.
    """
    try:
        module: nn.Module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ModelLoadError(
            f"{path.name} cannot be loaded as TorchScript ({_first_sentence(error)}); "
            "a state dict needs --model-file with the class it belongs to"
        ) from error
    return module.eval()


def load_eager(model_file: Path, weights: Path | None, device: torch.device, allow_pickle: bool) -> nn.Module:
    """The class of `model_file`, constructed without arguments, with `weights` if there are any, on `device`.

    Raises:
        ModelLoadError: no file, not exactly one class in it, or weights that do not fit (first keys named).
    """
    if not model_file.is_file():
        raise ModelLoadError(f"Missing the model.py file: {model_file.name} is not in the archive")
    model = _model_class(model_file)()
    if weights is not None:
        fit_state(model, read_weights(weights, device, allow_pickle), weights.name)
    return model.to(device).eval()


def load_exported(path: Path, device: torch.device, allow_pickle: bool) -> nn.Module:
    """A program saved by `torch.export.save`, in the mode (training or evaluation) it was exported in.

    Raises:
        ModelLoadError: `allow_pickle` is not set, or the file is missing or no such program.
    """
    if not allow_pickle:
        raise ModelLoadError(
            f"{path.name}: reading an exported program can run code that is in the file; "
            "set handler: {allow_pickle: true} in model-config.yaml if you trust who made it"
        )
    _require_file(path)
    try:
        program = torch.export.load(path)
    except Exception as error:  # the kinds of error are not documented
        raise ModelLoadError(
            f"{path.name} cannot be loaded as an exported program: {_first_sentence(error)}"
        ) from error
    return move_to_device_pass(program, device).module()


def load_pickled_module(path: Path, device: torch.device) -> nn.Module:
    """A whole module saved by `torch.save(model)`. The caller has checked `allow_pickle`."""
    value = read_weights(path, device, allow_pickle=True)
    if not isinstance(value, nn.Module):
        raise ModelLoadError(
            f"No model weights could be loaded: {path.name} holds a {type(value).__name__}, not a module; "
            "add --model-file with the class it belongs to"
        )
    return value.to(device).eval()


def read_weights(path: Path, device: torch.device, allow_pickle: bool) -> Any:
    """What a weights file holds: a mapping of names to tensors, or any object where pickles are allowed.

    Raises:
        ModelLoadError: missing, broken, or a pickle of more than tensors.
    """
    _require_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, device)
    try:
        return torch.load(path, map_location=device, weights_only=not allow_pickle)
    except pickle.UnpicklingError as error:
        raise refused_pickle(path.name, error) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ModelLoadError(f"{path.name} cannot be read: {_first_sentence(error)}") from error


def refused_pickle(name: str, error: pickle.UnpicklingError) -> ModelLoadError:
    """Says what `torch.load` found. Its own text is about how to run the code in the file."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    reason = f"it calls for {found[1]}" if found else "it is broken, or nothing that torch.save has written"
    return ModelLoadError(
        f"{name} is not a plain state dict: {reason}. Save model.state_dict() or safetensors, "
        "or set handler: {allow_pickle: true} in model-config.yaml if you trust who made the file"
    )


def fit_state(model: nn.Module, state: Any, source: str) -> None:
    """Loads a state dict strictly.

    Raises:
        ModelLoadError: names the first missing, unexpected and misshapen keys.
    """
    state = state.state_dict() if isinstance(state, nn.Module) else state
    if not isinstance(state, Mapping):
        raise ModelLoadError(f"{source} holds a {type(state).__name__}, not a state dict")
    expected = model.state_dict()
    problems = [
        _listed("missing", [key for key in expected if key not in state]),
        _listed("unexpected", [key for key in state if key not in expected]),
        _listed(
            "of another shape", [key for key in expected if key in state and _shapes_differ(expected[key], state[key])]
        ),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise ModelLoadError(f"{source} does not fit {type(model).__name__}: {'; '.join(found)}")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # values of another kind: sparse, quantized, without data
        reason = " ".join(str(error).split())
        raise ModelLoadError(f"{source} does not fit {type(model).__name__}: {reason}") from error


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ModelLoadError(f"{path.name} is named in the manifest but is not in the archive")


def _model_class(model_file: Path) -> type[nn.Module]:
    classes = classes_defined_in(load_module(model_file))
    if len(classes) != 1:
        raise ModelLoadError(f"Expected only one class as model definition. {classes}")
    return classes[0]


def _read_safetensors(path: Path, device: torch.device) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=str(device))
    except SafetensorError as error:
        raise ModelLoadError(f"{path.name} cannot be read: {_first_sentence(error)}") from error


def _shapes_differ(expected: Any, given: Any) -> bool:
    return getattr(expected, "shape", None) != getattr(given, "shape", None)


def _listed(what: str, keys: list[object], shown: int = 3) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return f"{what}: {', '.join(map(str, keys[:shown]))}{more}"


def _first_sentence(error: Exception) -> str:
    """torch's texts go on with guesses and advice."""
    return str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__
