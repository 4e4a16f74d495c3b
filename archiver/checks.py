"""Mistakes that can be found without running anything: Python that does not compile, configuration of a wrong shape."""

import warnings
from collections.abc import Callable
from pathlib import Path

from archiver.collect import SourceFile
from archiver.config_file import MAX_CONFIG_BYTES, check_handler_section, parse_config
from archiver.errors import PackError
from archiver.handler_names import handler_file, is_builtin
from archiver.manifest import Manifest

MAX_SOURCE_BYTES = 16 * 2**20
# Built-in handlers that load a model as BaseHandler does, and the weights that need no class beside them.
_LOADS_MODEL = ("base_handler", "image_classifier", "image_segmenter", "object_detector", "text_classifier")
_SELF_CONTAINED = (".pt", ".pt2", ".onnx")


def source_problem(source: bytes, name: str) -> str | None:
    """Why Python source does not compile, with its line; None when it does."""
    if len(source) > MAX_SOURCE_BYTES:
        return f"{name} is larger than the {MAX_SOURCE_BYTES:,} bytes that are checked."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"{name}, line {error.lineno}: {error.msg}. Correct the file."
    except (ValueError, RecursionError, MemoryError) as error:
        return f"{name} cannot be compiled: {str(error) or type(error).__name__}."
    return None


def check_source(file: SourceFile) -> SourceFile:
    """Passes a file on; raises PackError when it is Python and does not compile."""
    if file.path.suffix != ".py":
        return file
    if problem := source_problem(_head(file.path, MAX_SOURCE_BYTES), str(file.path)):
        raise PackError(problem)
    return file


def check_config(file: SourceFile) -> SourceFile:
    """Passes a model-config file on; raises InvalidConfig when it cannot be used."""
    config = parse_config(_head(file.path, MAX_CONFIG_BYTES), str(file.path))
    check_handler_section(config, str(file.path))
    return file


def _head(path: Path, limit_bytes: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit_bytes + 1)


def missing_files(manifest: Manifest, is_there: Callable[[str], bool]) -> list[str]:
    """A sentence for each file that the manifest names and the archive does not hold."""
    model = manifest.model
    named = [
        ("serializedFile", model.serialized_file, "--serialized-file"),
        ("modelFile", model.model_file, "--model-file"),
        ("requirementsFile", model.requirements_file, "--requirements-file"),
        ("configFile", model.config_file, "--config-file"),
        ("handler", needed_handler_file(manifest), "--handler"),
    ]
    return [
        f'{key}: "{name}" is not in the archive. Pack it again with {flag}.'
        for key, name, flag in named
        if name and not is_there(name)
    ]


def weights_problem(manifest: Manifest) -> str | None:
    """Why a built-in handler that loads the archive's model cannot; None when it can, or nothing is known about it."""
    model = manifest.model
    if model.handler not in _LOADS_MODEL or model.model_file:
        return None
    if not model.serialized_file:
        return f"{model.handler} has no model to load: pack it again with --serialized-file, or with --model-file."
    if not model.serialized_file.endswith(_SELF_CONTAINED):
        return (
            f"{model.serialized_file} needs the class it belongs to: pack it again with --model-file "
            f"(only TorchScript named .pt, .pt2 and .onnx say themselves what to compute)."
        )
    return None


def needed_handler_file(manifest: Manifest) -> str | None:
    """The file that the handler comes from, None for a built-in handler and where no handler is named."""
    handler = manifest.model.handler
    if not handler or is_builtin(handler, manifest.runtime):
        return None
    return handler_file(handler, manifest.runtime)
