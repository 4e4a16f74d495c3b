"""The command model-archiver: packs an archive from flags, as TorchServe's archiver does, and inspects archives."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from archiver.errors import ArchiverError
from archiver.handler_names import RUNTIMES
from archiver.inspect import inspect
from archiver.pack import FORMATS, PackRequest, plan_archive, write_archive
from archiver.report_text import format_size, report_text
from archiver.write import Advance

PROGRAM = "model-archiver"
_PROGRESS_FROM_BYTES = 64 * 2**20
_HELP = {"help_option_names": ["-h", "--help"]}


@click.command(context_settings=_HELP, epilog=f"{PROGRAM} inspect FILE shows what an archive holds.")
@click.option("--model-name", required=True, help="Name of the model and of the archive.")
@click.option("--serialized-file", help="File with the weights: .safetensors, .pt, .pth, .bin, .onnx, …")
@click.option("--model-file", help="Python file with the model's class, for weights without architecture.")
@click.option("--handler", required=True, help="Built-in handler, file.py, or file:function.")
@click.option("--extra-files", help="Comma-separated files, folders (their contents) and wildcards.")
@click.option("--runtime", type=click.Choice(RUNTIMES), default="python", show_default=True)
@click.option("--export-path", default=Path.cwd, help="Folder for the archive, the current one unless given.")
@click.option("--archive-format", type=click.Choice(FORMATS), default="default", show_default=True)
@click.option("-f", "--force", is_flag=True, help="Overwrite what exists under the archive's name.")
@click.option("-v", "--version", required=True, help="Version of the model.")
@click.option("-r", "--requirements-file", help="requirements.txt with the model's own dependencies.")
@click.option("-c", "--config-file", help="model-config.yaml.")
def pack_command(**flags: Any) -> int:
    """Pack weights, a handler and a configuration into one archive."""
    plan = plan_archive(PackRequest(**{**flags, "export_path": str(flags["export_path"])}))
    with _progress(plan.size_bytes) as advance:
        write_archive(plan, advance)
    click.echo(f"Packed {len(plan.contents.files) + 1} files into {plan.output} ({_size_on_disk(plan.output)}).")
    return 0


@click.command(context_settings=_HELP)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def inspect_command(file: Path, as_json: bool) -> int:
    """Show manifest, configuration and files of a .mar, a tar.gz or a model folder, and whether it would load.

    Nothing of the archive is executed. Exits with 1 when it would not load, or when a key of its configuration looks
    mistyped.
    """
    report = inspect(file)
    click.echo(json.dumps(report.to_dict(), indent=2) if as_json else report_text(report))
    return 1 if report.problems or report.mistakes else 0


_SUB_COMMANDS = {"inspect": inspect_command}


def main(argv: list[str] | None = None) -> int | None:
    """Runs the command; returns the exit status: 0, 1 for what cannot be packed or loaded, 2 for wrong usage."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        with _warnings_shown():
            return _run(arguments)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("Aborted.", err=True)
    except (ArchiverError, OSError) as error:
        click.echo(str(error), err=True)
    return 1


def _run(arguments: list[str]) -> int:
    command, program = pack_command, PROGRAM
    if arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
        command, program = _sub_command(name), f"{PROGRAM} {name}"
    expanded = expand_abbreviations(command, arguments)
    status: int = command.main(expanded, prog_name=program, standalone_mode=False)
    return status


def _sub_command(name: str) -> click.Command:
    if name not in _SUB_COMMANDS:
        raise click.UsageError(
            f"No such command: {name}. There is {', '.join(_SUB_COMMANDS)}; packing takes flags only, see --help."
        )
    return _SUB_COMMANDS[name]


def expand_abbreviations(command: click.Command, arguments: list[str]) -> list[str]:
    """Writes out `--serial x` as `--serialized-file x`, as argparse did for the original command."""
    names = ["--help", *(option for parameter in command.params for option in parameter.opts)]
    return [_full_option(argument, names) for argument in arguments]


def _full_option(argument: str, names: list[str]) -> str:
    option, equals, value = argument.partition("=")
    if not option.startswith("--") or option in ("--", *names):
        return argument
    matches = [name for name in names if name.startswith(option)]
    if len(matches) > 1:
        raise click.UsageError(f"ambiguous option: {option} could match {', '.join(matches)}")
    return f"{matches[0]}{equals}{value}" if matches else argument


@contextmanager
def _progress(total_bytes: int) -> Iterator[Advance]:
    if total_bytes < _PROGRESS_FROM_BYTES or not sys.stderr.isatty():
        yield _ignore
        return
    with click.progressbar(length=total_bytes, label="Packing", file=sys.stderr) as bar:
        yield bar.update


def _ignore(size_bytes: int) -> None:
    """Progress that nobody watches."""


@contextmanager
def _warnings_shown() -> Iterator[None]:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s - %(message)s"))
    logger = logging.getLogger("archiver")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _size_on_disk(output: Path) -> str:
    paths = output.rglob("*") if output.is_dir() else [output]
    return format_size(sum(path.stat().st_size for path in paths if path.is_file()))
