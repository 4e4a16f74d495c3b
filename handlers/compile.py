"""The `pt2` block of model-config.yaml: whether and how a model is compiled.

Forms: `pt2: {compile: {enable: true, backend: inductor, mode: reduce-overhead, ...}}`; TorchServe's older
`pt2: inductor` and `pt2: {backend: ..., mode: ...}`; `pt2: {export: ...}` compiles nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch

from handlers.errors import ModelLoadError
from handlers.pt2_backend import check_valid_pt2_backend
from handlers.scalars import as_flag

Model = TypeVar("Model", bound=Callable[..., Any])

log = logging.getLogger(__name__)


def compile_options(pt2: object) -> dict[str, Any] | None:
    """Keyword arguments of `torch.compile`, or None when nothing is to be compiled. `pt2` itself is left as it is.

    Raises:
        ModelLoadError: `pt2` is neither text nor a mapping, or `enable` is missing or no flag.
    """
    if pt2 is None:
        return None
    options = _requested(pt2)
    if not options:
        return None
    backend = options.get("backend", "inductor")
    if not check_valid_pt2_backend(backend):
        log.warning("%s is not a supported backend; the model runs uncompiled", backend)
        return None
    return options


def compile_callable(model: Model, options: Mapping[str, Any]) -> Model:
    """The compiled module or function, or the thing itself, with a warning, when torch refuses the options."""
    shown = ", ".join(f"{key} {value}" for key, value in options.items())
    try:
        compiled = torch.compile(model, **options)
    except Exception as error:
        log.warning("Compiling model model with %s has failed \n Proceeding without compilation: %s", shown, error)
        return model
    log.info("Compiled model with %s", shown)
    return cast(Model, compiled)


def uses_aot_compile(pt2: object) -> bool:
    """Whether the weights are a library that AOTInductor compiled: `pt2: {export: {aot_compile: true}}`.

    Raises:
        ModelLoadError: `aot_compile` is no flag.
    """
    export = pt2.get("export") if isinstance(pt2, Mapping) else None
    if not isinstance(export, Mapping):
        return False
    try:
        return as_flag(export.get("aot_compile", False))
    except ValueError as error:
        raise ModelLoadError(f"pt2: {{export: {{aot_compile: ...}}}}: {error}") from error


def _requested(pt2: object) -> dict[str, Any] | None:
    if isinstance(pt2, str):
        log.warning("pt2: %s is deprecated; write pt2: {compile: {enable: true, backend: %s}}", pt2, pt2)
        return {"backend": pt2}
    if not isinstance(pt2, Mapping):
        raise ModelLoadError(f"pt2 should be str or dict: found {pt2!r}")
    if "compile" in pt2:
        return _compile_block(pt2["compile"])
    options = {str(key): value for key, value in pt2.items() if key != "export"}
    if options:
        log.warning("pt2: %s is deprecated; write pt2: {compile: {enable: true, ...}}", options)
    return options


def _compile_block(block: object) -> dict[str, Any] | None:
    if not isinstance(block, Mapping) or "enable" not in block:
        raise ModelLoadError(f"pt2: {{compile: ...}} needs the key enable: true or false; found {block!r}")
    try:
        enabled = as_flag(block["enable"])
    except ValueError as error:
        raise ModelLoadError(f"pt2: {{compile: {{enable: ...}}}}: {error}") from error
    options = {str(key): value for key, value in block.items() if key != "enable"}
    return {"backend": "inductor", **options} if enabled else None
