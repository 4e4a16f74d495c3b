"""`modelserver install-aliases`: the command names of TorchServe beside ours, for scripts that hard-code them.

An alias is a small shell script that passes its arguments on. It is ours if its second line says so; what others have
put in that place is never touched.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import click

from handlers.compat import TORCHSERVE_VERSION

_MARK = "# Written by `modelserver install-aliases`; `modelserver install-aliases --remove` takes it away."

# Command -> what Python runs instead. The process must be recognisable as a server (`pid_file`).
ALIASES = {
    "torchserve": ["-m", "model_server.cli", "--as-torchserve"],
    "torch-model-archiver": ["-c", "import sys; from archiver.cli import main; sys.exit(main())"],
}
# The distributions that bring the real commands.
DISTRIBUTIONS = {
    "torchserve": ("torchserve", "torchserve-nightly"),
    "torch-model-archiver": ("torch-model-archiver", "torch-model-archiver-nightly"),
}


# What `torchserve --version` prints: scripts compare the version, so it is that of the interface we offer.
TORCHSERVE_VERSION_LINE = f"TorchServe Version is {TORCHSERVE_VERSION}"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--remove", is_flag=True, help="Take the commands away again.")
def install_aliases(remove: bool) -> int:
    """Put the commands torchserve and torch-model-archiver beside modelserver; they do the same as ours."""
    folder = command_folder()
    lines = remove_from(folder) if remove else install_into(folder)
    click.echo("\n".join(lines))
    return 0


def main(words: Sequence[str]) -> int:
    """Runs the command; returns the exit status: 0, 1 when it is refused, 2 for wrong usage."""
    try:
        status: int = install_aliases.main(list(words), "modelserver install-aliases", standalone_mode=False)
        return status
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except OSError as error:
        click.echo(f"{error.filename}: {error.strerror}", err=True)
        return 1


def command_folder() -> Path:
    """Where the running `modelserver` lies, as it was called; where Python puts commands if it was called otherwise."""
    called = Path(sys.argv[0])
    return called.absolute().parent if called.name == "modelserver" else Path(sysconfig.get_path("scripts"))


def install_into(folder: Path) -> list[str]:
    """Writes all aliases; returns what to tell the user.

    Raises:
        click.ClickException: a real command is there; nothing has been written.
        OSError: the folder cannot be written to.
    """
    for command in ALIASES:
        if problem := _problem(folder, command):
            raise click.ClickException(problem)
    for command, arguments in ALIASES.items():
        _write(folder / command, _script(arguments))
    return [f"{folder / command} is there." for command in ALIASES]


def remove_from(folder: Path) -> list[str]:
    """Removes the aliases and nothing else; returns what to tell the user."""
    lines = []
    for command in ALIASES:
        path = folder / command
        if _is_ours(path):
            path.unlink()
            lines.append(f"{path} is gone.")
        elif _exists(path):
            lines.append(f"{path} was not written by modelserver and stays.")
    return lines or [f"There are no aliases in {folder}."]


def _problem(folder: Path, command: str) -> str | None:
    for name in DISTRIBUTIONS[command]:
        with contextlib.suppress(PackageNotFoundError):
            version = distribution(name).version
            return f"{name} {version} is installed in this environment: pip uninstall {name}, or use our own commands."
    path = folder / command
    if _exists(path) and not _is_ours(path):
        return f"{path} is there already and was not written by modelserver: it stays. Remove it first."
    return None


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _is_ours(path: Path) -> bool:
    return path.is_file() and path.read_bytes().splitlines()[1:2] == [_MARK.encode()]


def _script(arguments: Sequence[str]) -> str:
    # -P: a folder called `handlers` where the user happens to be must not stand in for ours.
    command = shlex.join([sys.executable, "-P", *arguments])
    return f'#!/bin/sh\n{_MARK}\nexec {command} "$@"\n'


def _write(path: Path, script: str) -> None:
    """In one step: a command that is being run, or that a second run replaces, is never half there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(script)
        draft.chmod(0o755)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
