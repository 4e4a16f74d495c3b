"""From a request to an archive: check everything, then write.

`plan_archive` reads and judges the inputs and writes nothing; `write_archive` carries the plan out. The same inputs
give the same bytes: entries are sorted, carry the time SOURCE_DATE_EPOCH (1980-01-01 without it) and fixed
permissions, and the manifest's `createdOn` is SOURCE_DATE_EPOCH or, without it, the newest modification time of the
inputs (in UTC). https://reproducible-builds.org/specs/source-date-epoch/
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from archiver import write
from archiver.checks import check_config, check_source
from archiver.collect import SourceFile, extra_files, merge, single_file
from archiver.entries import NameChecker, entry_name
from archiver.errors import InvalidArchive, MissingInput, PackError
from archiver.handler_names import BUILTIN_NAMES, RUNTIMES, entry_point_problem, handler_file, is_builtin
from archiver.manifest import MANIFEST_NAME, Manifest, ModelEntry, archiver_version

logger = logging.getLogger(__name__)

_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_\-.]*$"

# Format -> ending of the output's name and its writer.
_FORMATS: dict[str, tuple[str, write.Writer]] = {
    "default": (".mar", write.write_zip),
    "zip-store": (".mar", write.write_stored_zip),
    "tgz": (".tar.gz", write.write_tgz),
    "no-archive": ("", write.write_folder),
}
FORMATS = tuple(_FORMATS)


@dataclass(frozen=True)
class PackRequest:
    """The flags of `model-archiver`; paths are as the user wrote them, None or empty when not given."""

    model_name: str
    version: str
    handler: str
    serialized_file: str | None = None
    model_file: str | None = None
    extra_files: str | None = None
    runtime: str = "python"
    export_path: str = "."
    archive_format: str = "default"
    force: bool = False
    requirements_file: str | None = None
    config_file: str | None = None


@dataclass(frozen=True)
class ArchivePlan:
    """A checked request: what will be written where."""

    request: PackRequest
    output: Path
    contents: write.Contents
    size_bytes: int


def pack(request: PackRequest) -> Path:
    """Packs an archive and returns where it lies.

    Raises:
        ArchiverError: an input or the output is not usable; the message begins with TorchServe's text.
    """
    plan = plan_archive(request)
    write_archive(plan)
    return plan.output


def plan_archive(request: PackRequest) -> ArchivePlan:
    """Checks names, output and inputs, in the order in which TorchServe reports them."""
    _check_words(request)
    output = _output(request)
    files = _files(request, output)
    epoch_s = _source_date_epoch_s()
    manifest = _manifest(request, _newest_s(files) if epoch_s is None else epoch_s)
    entry_time_s = write.EARLIEST_ENTRY_TIME_S if epoch_s is None else epoch_s
    contents = write.Contents(request.model_name, files, manifest.to_json(), entry_time_s)
    return ArchivePlan(request, output, contents, sum(file.path.stat().st_size for file in files))


def write_archive(plan: ArchivePlan, advance: write.Advance = lambda size_bytes: None) -> None:
    """Writes the planned archive; `advance` is told the number of bytes after each piece.

    Raises:
        PackError: the archive could not be written; nothing is left behind.
    """
    export_path = plan.output.parent
    with _failures_reported(plan):
        if not export_path.exists():
            logger.warning("Export directory (%s) does not exist. Creating...", plan.request.export_path)
            export_path.mkdir(parents=True, exist_ok=True)
        _, writer = _FORMATS[plan.request.archive_format]
        write.write_atomically(writer, plan.output, plan.contents, advance, replace=plan.request.force)


@contextmanager
def _failures_reported(plan: ArchivePlan) -> Iterator[None]:
    request = plan.request
    try:
        yield
    except FileExistsError as error:
        raise _already_exists(plan.output) from error
    except OSError as error:
        raise PackError(
            f'Failed to save the model-archive to model-path "{request.export_path}". '
            f"Check the file permissions and retry. ({error})"
        ) from error
    except Exception as error:
        raise PackError(
            f"Failed to convert {request.model_name} to the model-archive. ({type(error).__name__}: {error})"
        ) from error


def _check_words(request: PackRequest) -> None:
    if request.runtime not in RUNTIMES:
        raise PackError(f"{request.runtime!r} is not a valid RuntimeType; use one of {', '.join(RUNTIMES)}.")
    if request.archive_format not in _FORMATS:
        raise PackError(f"{request.archive_format!r} is no archive format; use one of {', '.join(FORMATS)}.")
    if not re.fullmatch(_NAME_PATTERN, request.model_name):
        raise PackError(
            "Model name contains special characters.\n"
            f"The allowed regular expression filter for model name is: {_NAME_PATTERN} (given: {request.model_name!r})"
        )


def _output(request: PackRequest) -> Path:
    export_path = Path(request.export_path)
    if export_path.exists() and not export_path.is_dir():
        raise PackError(
            f"Given export-path {request.export_path} is not a directory. Point to a valid export-path directory."
        )
    ending, _ = _FORMATS[request.archive_format]
    output = export_path / (request.model_name + ending)
    if output.exists() and not request.force:
        raise _already_exists(output)
    if output.exists():
        logger.warning("Overwriting %s ...", output)
    return output


def _already_exists(output: Path) -> PackError:
    return PackError(
        f"{output} already exists.\n"
        "Please specify --force/-f option to overwrite the model archive output file.\n"
        "See -h/--help for more details."
    )


def _files(request: PackRequest, output: Path) -> list[SourceFile]:
    files = [file for file in merge(_sources(request)) if _is_packed(file, output)]
    names = NameChecker()
    names.add(MANIFEST_NAME)
    for file in files:
        try:
            names.add(entry_name(file.name))
        except InvalidArchive as error:
            raise PackError(f"{file.path} cannot be packed. {error}") from error
    if request.archive_format == "no-archive":
        _check_outside(files, output)
    return files


def _is_packed(file: SourceFile, output: Path) -> bool:
    if file.name == MANIFEST_NAME:
        logger.warning("%s is not packed: the archive gets a new manifest", file.path)
        return False
    # A folder given to --extra-files may be the one where the archive of the last run lies.
    return not (output.is_file() and output.samefile(file.path))


def _check_outside(files: list[SourceFile], output: Path) -> None:
    for file in files:
        if file.path.resolve().is_relative_to(output.resolve()):
            raise PackError(
                f"{file.path} lies in {output}, the folder that would be replaced. Choose another --export-path."
            )


def _sources(request: PackRequest) -> Iterator[SourceFile]:
    if request.model_file:
        yield check_source(single_file(request.model_file, "--model-file"))
    if request.serialized_file:
        yield single_file(request.serialized_file, "--serialized-file")
    yield from _handler_sources(request)
    if request.extra_files:
        yield from extra_files(request.extra_files)
    if request.requirements_file:
        yield single_file(request.requirements_file, "--requirements-file")
    if request.config_file:
        yield check_config(single_file(request.config_file, "--config-file"))


def _handler_sources(request: PackRequest) -> Iterator[SourceFile]:
    handler, runtime = request.handler, request.runtime
    if is_builtin(handler, runtime):
        return
    if problem := entry_point_problem(handler):
        raise PackError(f"--handler {handler!r} {problem}. Use file.py, file:function or a built-in name.")
    try:
        file = single_file(handler_file(handler, runtime), f"--handler {handler}")
    except MissingInput as error:
        raise MissingInput(f"{error} Built-in handlers: {', '.join(sorted(BUILTIN_NAMES))}.") from error
    yield check_source(file)


def _manifest_handler(request: PackRequest) -> str:
    name = Path(request.handler).name
    # TorchServe's own spelling of an entry point has no `.py` before the colon.
    return name.replace(".py:", ":") if request.runtime != "LSP" else name


def _manifest(request: PackRequest, created_s: float) -> Manifest:
    model = ModelEntry(
        model_name=request.model_name,
        serialized_file=_base_name(request.serialized_file),
        handler=_manifest_handler(request),
        model_file=_base_name(request.model_file),
        model_version=request.version,
        requirements_file=_base_name(request.requirements_file),
        config_file=_base_name(request.config_file),
    )
    created_on = datetime.fromtimestamp(created_s, UTC).strftime("%d/%m/%Y %H:%M:%S")
    return Manifest(model, request.runtime, created_on, archiver_version())


def _base_name(path: str | None) -> str | None:
    return Path(path).name if path else None


def _newest_s(files: list[SourceFile]) -> float:
    return max((file.path.stat().st_mtime for file in files), default=write.EARLIEST_ENTRY_TIME_S)


def _source_date_epoch_s() -> int | None:
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    try:
        datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise PackError(f"SOURCE_DATE_EPOCH is {text!r}; it must be a number of seconds since 1970.") from error
    return int(text)
