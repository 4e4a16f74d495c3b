"""The `modelserver` command.

What only one way of calling it needs is imported there: launcher and server, one after the other, pay for each import
with time until the port is open.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from model_server import __version__
from model_server.config.errors import ConfigError
from model_server.config.load import load_config
from model_server.config.model_snapshot import SnapshotModel
from model_server.config.server import CommandLine, ConfigWarning, ServerConfig, StartupModel
from model_server.descriptors import raise_descriptor_limit
from model_server.errors import ServerError
from model_server.launcher import Progress, spawn, stop_server, watch
from model_server.pid_file import ALREADY_RUNNING, PidFile
from model_server.status import StatusEvent, write_event

if TYPE_CHECKING:
    from model_server.serving.store import ModelStore


def _install_aliases(words: Sequence[str]) -> int:
    from model_server import aliases

    return aliases.main(words)


def _token(words: Sequence[str]) -> int:
    from model_server import token_command

    return token_command.main(words)


# A first word without dashes chooses one of these; each gets the words after it and returns the exit status.
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"install-aliases": _install_aliases, "token": _token}

_PATH = click.Path(path_type=Path)


class TorchServeCommand(click.Command):
    """A click command with two habits of TorchServe's: shortened flags, and `--models` with several words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = [
            flag
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option) and not parameter.hidden
            for flag in parameter.opts
        ]
        return super().parse_args(ctx, expand_words(args, known))


def expand_words(words: Sequence[str], known_flags: Sequence[str]) -> list[str]:
    """Complete shortened flags, and turn `--models A B` into `--models A --models B`.

    Raises:
        click.UsageError: a shortened flag could be several, or no word follows --models.
    """
    expanded: list[str] = []
    previous = ""
    for word in [_complete(word, known_flags) for word in words]:
        is_flag = word.startswith("-")
        if previous == "--models" and is_flag:
            raise click.UsageError("--models needs at least one model.")
        if previous.startswith("--models") and not is_flag:
            expanded += ["--models", word]
            previous = "--models="
            continue
        previous = word
        if word != "--models":
            expanded.append(word)
    if previous == "--models":
        raise click.UsageError("--models needs at least one model.")
    return expanded


def _complete(word: str, known_flags: Sequence[str]) -> str:
    flag, equals, value = word.partition("=")
    if not flag.startswith("--") or flag in known_flags:
        return word
    candidates = [known for known in known_flags if known.startswith(flag)]
    if len(candidates) > 1:
        raise click.UsageError(f"{flag} could be {' or '.join(candidates)}: write more of it.")
    return f"{candidates[0]}{equals}{value}" if candidates else word


@click.command(
    cls=TorchServeCommand,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="modelserver install-aliases adds the commands torchserve and torch-model-archiver, which call ours; "
    "modelserver token shows and renews the tokens of the running server.",
)
@click.option("-v", "--version", is_flag=True, help="Print the version and exit.")
@click.option("--start", is_flag=True, help="Start the server (what happens without any of these flags, too).")
@click.option("--stop", is_flag=True, help="Stop the running server.")
@click.option("--check-config", is_flag=True, help="Print what holds and where it comes from; fail on mistyped keys.")
@click.option("--foreground", is_flag=True, help="Stay with the server; with --stop, wait up to 60 s for its end.")
@click.option("--ts-config", type=_PATH, metavar="FILE", help="Configuration, Java properties.")
@click.option("--model-store", type=_PATH, metavar="DIR", help="Folder with the archives, or several: A,B.")
@click.option("--workflow-store", type=_PATH, metavar="DIR", help="Folder with workflow archives (no effect yet).")
@click.option("--models", multiple=True, metavar="[NAME=]MODEL ...", help="What to load: archives, folders, or all.")
@click.option(
    "--log-config",
    type=_PATH,
    metavar="FILE",
    help="Python logging configuration (dictConfig), YAML or JSON; a log4j2 file is accepted and not read.",
)
@click.option("--cpp-log-config", type=_PATH, metavar="FILE", help="Accepted for TorchServe's sake; no effect.")
@click.option("--plugins-path", "--ppath", metavar="PATH", help="Accepted for TorchServe's sake; no effect.")
@click.option("--no-config-snapshots", "--ncs", is_flag=True, help="Neither read nor write snapshots.")
@click.option("--disable-token-auth", "--dt", is_flag=True, help="Serve without tokens.")
@click.option("--enable-model-api", is_flag=True, help="Allow registering and unregistering models while running.")
@click.option("--pid-file", type=_PATH, metavar="FILE", help="Where the server's process id stands; for --stop, too.")
@click.option("--status-fd", type=int, hidden=True)
@click.option("--as-torchserve", is_flag=True, hidden=True)
def modelserver(
    version: bool,
    start: bool,
    stop: bool,
    check_config: bool,
    foreground: bool,
    status_fd: int | None,
    as_torchserve: bool,
    **flags: Any,
) -> None:
    """Serve PyTorch and Hugging Face models from .mar archives."""
    if version + start + stop + check_config > 1:
        raise click.UsageError("--version, --start, --stop and --check-config exclude each other.")
    if version:
        _print_version(as_torchserve)
        return
    command_line = CommandLine(**flags)
    try:
        if stop:
            status = stop_server(PidFile(command_line.pid_file), wait=foreground)
        elif check_config:
            status = _check(command_line)
        elif foreground:
            status = _serve(command_line, status_fd)
        else:
            status = _launch(command_line)
    except ConfigError as error:
        _report(str(error), status_fd)
        status = 1
    sys.exit(status)


def _print_version(as_torchserve: bool) -> None:
    if as_torchserve:
        from model_server.aliases import TORCHSERVE_VERSION_LINE

        print(TORCHSERVE_VERSION_LINE)
    else:
        print(f"modelserver {__version__}")


def _report(message: str, status_fd: int | None) -> None:
    """On standard output, where TorchServe's launcher puts it; a server that has a launcher leaves it to that."""
    if status_fd is None:
        print(message)
    else:
        write_event(status_fd, StatusEvent(event="error", message=message))


def _launch(command_line: CommandLine) -> int:
    if PidFile(command_line.pid_file).running():
        raise ConfigError(ALREADY_RUNNING)
    load_config(command_line, os.environ, Path.cwd())  # refused here, before anything is started
    # -P: a folder called `handlers` where the user happens to be must not stand in for ours.
    program = [sys.executable, "-P", "-m", "model_server.cli", "--start", "--foreground"]
    pid_file = command_line.pid_file
    progress = Progress(options=f" --pid-file {shlex.quote(str(pid_file))}" if pid_file else "")
    return watch(spawn([*program, *command_line_words(command_line)]), progress)


def command_line_words(command_line: CommandLine) -> list[str]:
    """The flags that give this command line again."""
    words: list[str] = []
    for field in fields(command_line):
        value = getattr(command_line, field.name)
        flag = f"--{field.name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif isinstance(value, tuple):
            words += [word for item in value for word in (flag, item)]
        elif value:
            words += [flag, str(value)]
    return words


def _serve(command_line: CommandLine, status_fd: int | None) -> int:
    from model_server.startup import run

    if status_fd is not None:
        os.set_inheritable(status_fd, False)  # workers must not keep the launcher waiting
    raise_descriptor_limit()
    with PidFile(command_line.pid_file).claimed():
        config, warnings = load_config(command_line, os.environ, Path.cwd())
        return run(config, [str(warning) for warning in warnings], status_fd)


def _check(command_line: CommandLine) -> int:
    """Print every effective value and where it came from; the exit status says whether something is mistyped."""
    from model_server.config.report import server_table

    config, warnings = load_config(command_line, os.environ, Path.cwd())
    print(f"{config.config_file or 'no configuration file'}\n{server_table(config)}")
    warnings += _check_models(config)
    for warning in warnings:
        print(f"{'mistake' if warning.is_mistake else 'note'}: {warning}", file=sys.stderr)
    return 1 if any(warning.is_mistake for warning in warnings) else 0


def _check_models(config: ServerConfig) -> list[ConfigWarning]:
    from model_server.serving.placement import available_cores, detect_gpus
    from model_server.serving.store import ModelStore

    store = ModelStore(config.model_stores, config.temp_dir, config.downloads)
    devices = (available_cores(), len(detect_gpus(os.environ)))
    try:
        items = _startup_models(store, config)
        return [warning for item in items for warning in _check_model(store, *item, config, *devices)]
    finally:
        store.close()


def _startup_models(store: ModelStore, config: ServerConfig) -> list[tuple[StartupModel, SnapshotModel | None]]:
    if config.model_snapshot is not None:
        return [(StartupModel(entry.name, entry.source), entry) for entry in config.model_snapshot]
    models = store.list_all() if config.load_models == "all" else config.load_models
    return [(model, None) for model in models]


def _check_model(
    store: ModelStore,
    model: StartupModel,
    restored: SnapshotModel | None,
    config: ServerConfig,
    cpu_count: int,
    gpu_count: int,
) -> list[ConfigWarning]:
    import asyncio

    from model_server.config.report import model_table
    from model_server.config.resolve import RegisterOverrides, find_overrides, resolve_model, restore_settings
    from model_server.serving.download import is_remote

    if is_remote(model.url):
        return [ConfigWarning(f"{model.url}: fetched when the server starts, not looked at now", is_mistake=False)]
    try:
        archive = asyncio.run(store.open(model.url, startup=True))
    except ServerError as error:
        return [ConfigWarning(f"{model.url}: {error.message}")]
    entry = archive.manifest.model if archive.manifest else None
    name, version = model.name or (entry.model_name if entry else ""), entry.model_version if entry else "1.0"
    overrides, mismatch = find_overrides(config.models, name, version)
    settings = resolve_model(
        RegisterOverrides(),
        archive.config,
        overrides,
        config,
        startup=True,
        cpu_count=cpu_count,
        gpu_count=gpu_count,
    )
    if restored is not None:
        settings = restore_settings(settings, restored)
    print(f"{model.url}\n{model_table(settings)}")
    messages = [*archive.warnings, *([str(mismatch)] if mismatch else [])]
    notes = [ConfigWarning(f"{model.url}: {warning}", is_mistake=False) for warning in settings.warnings]
    return [ConfigWarning(f"{model.url}: {message}") for message in messages] + notes


def main() -> None:
    """Entry point of the console script."""
    words = sys.argv[1:]
    if words and not words[0].startswith("-"):
        sys.exit(_run_command(words[0], words[1:]))
    modelserver.main(args=words, prog_name="modelserver")


def _run_command(name: str, words: Sequence[str]) -> int:
    if name in COMMANDS:
        return COMMANDS[name](words)
    known = ", ".join(COMMANDS)
    print(f"modelserver: unknown command {name}: there is {known}; see modelserver --help", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
