"""Packing as scripts made for torch-model-archiver ask for it; the work is done by `archiver.pack`.

Errors have TorchServe's texts: ModelArchiverError is ArchiverError, and a missing file is a FileNotFoundError, too.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import click

from archiver.cli import expand_abbreviations, pack_command
from archiver.compat.manifest import RuntimeType
from archiver.errors import ArchiverError
from archiver.handler_names import BUILTIN_NAMES
from archiver.pack import ArchivePlan, PackRequest, plan_archive, write_archive

log = logging.getLogger(__name__)

# Format -> ending of the archive's name.
archiving_options = {"tgz": ".tar.gz", "no-archive": "", "zip-store": ".mar", "default": ".mar"}
# Its keys are the handlers that need no file.
model_handlers = {name: name for name in sorted(BUILTIN_NAMES)}


@dataclass
class ModelArchiverConfig:
    """The flags of the command, in torch-model-archiver's order."""

    model_name: str
    handler: str
    version: str
    serialized_file: str | None = None
    model_file: str | None = None
    extra_files: str | None = None
    runtime: str = RuntimeType.PYTHON.value
    export_path: str = field(default_factory=os.getcwd)
    archive_format: str = "default"
    force: bool = False
    requirements_file: str | None = None
    config_file: str | None = None

    @classmethod
    def from_args(cls, args: Any) -> ModelArchiverConfig:
        """From an object with attributes of the same names, such as argparse's namespace."""
        return cls(**{each.name: getattr(args, each.name) for each in fields(cls)})


class ArgParser:
    """The command line of torch-model-archiver."""

    @staticmethod
    def export_model_args_parser() -> ModelArchiverConfig:
        """The flags in `sys.argv`; wrong usage and --help end the program, as a command line does."""
        arguments = expand_abbreviations(pack_command, sys.argv[1:])
        try:
            with pack_command.make_context("torch-model-archiver", arguments) as context:
                flags = {**context.params, "export_path": str(context.params["export_path"])}
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except click.exceptions.Exit as ending:
            sys.exit(ending.exit_code)
        return ModelArchiverConfig(**flags)


class ModelExportUtils:
    """What of torch-model-archiver's helpers makes sense outside of it."""

    @staticmethod
    def generate_manifest_json(args: ModelArchiverConfig) -> str:
        """MAR-INF/MANIFEST.json of the archive that `args` asks for."""
        return _plan(args).contents.manifest_json.decode()

    @staticmethod
    def find_unique(files: list[str], suffix: str) -> str | None:
        """The file with that ending; None when there is none.

        Raises:
            ArchiverError: there are several.
        """
        found = [file for file in files if file.endswith(suffix)]
        if len(found) > 1:
            raise ArchiverError(
                f"model-archiver expects only one {suffix} file in the folder. "
                f"Found {len(found)} files {found} in model-path."
            )
        return found[0] if found else None


class ModelArchiver:
    """The archiver as an object."""

    @staticmethod
    def generate_model_archive(config: ModelArchiverConfig) -> None:
        generate_model_archive(config)


def generate_model_archive(config: ModelArchiverConfig | None = None) -> None:
    """Packs what `config` says; without it, what the command line says.

    Raises:
        ValueError: an unknown runtime.
        ArchiverError: an input or the output is not usable; it has been logged.
    """
    with _errors_logged():
        write_archive(_plan(config or ArgParser.export_model_args_parser()))


def package_model(config: ModelArchiverConfig, manifest: str) -> None:
    """The same with a manifest of the caller's, as JSON text."""
    with _errors_logged():
        plan = _plan(config)
        write_archive(replace(plan, contents=replace(plan.contents, manifest_json=manifest.encode())))


def _plan(config: ModelArchiverConfig) -> ArchivePlan:
    RuntimeType(config.runtime)
    return plan_archive(PackRequest(**asdict(config)))


@contextmanager
def _errors_logged() -> Iterator[None]:
    try:
        yield
    except ArchiverError as error:
        log.error("%s", error)
        raise
