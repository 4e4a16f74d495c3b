"""Virtual environments of models that bring requirements: made once per content, kept for the next start.

    CACHE/KEY/build-*    an environment, made at the place where it stays: its scripts hold their own path
    CACHE/KEY/current    name of the complete one, written last
    CACHE/KEY/lock       locked while one is made

What is not current is never used, whatever became of those who made it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from model_server.config.server import ServerConfig
from model_server.errors import InstallationFailed, ServerError
from model_server.serving.installation import PIP_FAILED, Installation, Transcript
from model_server.serving.interpreter import probe
from model_server.serving.requirements import UnusableRequirements

log = logging.getLogger(__name__)

_LOCK_POLL_S = 0.1


class Environments:
    """Finds or makes the environment of a model.

    The state here is one lock per environment; the environments themselves are folders that several servers may share.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._locks: dict[str, asyncio.Lock] = {}

    async def python_for(self, model: str, root: Path, requirements_file: str) -> str:
        """The interpreter of an environment that has what the file asks for.

        pip runs once per content, in `root`; what it prints goes to the log. A wait that is cancelled ends it.

        Args:
            root: the model's folder.
            requirements_file: relative to `root`.

        Raises:
            InstallationFailed: with the last lines of what pip has printed; nothing is left behind.
            ServerError: environments cannot be kept, or the server's own interpreter is not to be used.
        """
        transcript = Transcript(model)
        timeout_s = self._config.requirements_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return str(await self._find_or_make(root, requirements_file, transcript))
        except TimeoutError:
            text = f"It was not done within requirements_timeout={timeout_s} seconds."
            raise InstallationFailed(f"{PIP_FAILED} {model}. {text} {transcript}".rstrip()) from None
        except UnusableRequirements as error:
            raise InstallationFailed(f"{PIP_FAILED} {model}. {error}") from error
        except OSError as error:
            raise ServerError(f"{PIP_FAILED} {model}. {error}.") from error

    async def _find_or_make(self, root: Path, requirements_file: str, transcript: Transcript) -> Path:
        variables = self._config.visible_environment(os.environ)
        server = await probe(self._config.python, variables)
        installation = Installation(root, requirements_file, server, variables, transcript)
        cell = await asyncio.to_thread(self._cell, installation)
        if python := _current(cell):
            log.info("Model %s: its packages were installed before, in %s", transcript.model, cell)
            return python
        # Where file locks belong to processes (NFS), they do not keep two registrations of one server apart.
        lock = self._locks.setdefault(cell.name, asyncio.Lock())
        async with lock, _file_lock(cell / "lock") as lock_fd:
            return _current(cell) or await _make(installation, cell, lock_fd)

    def _cell(self, installation: Installation) -> Path:
        """The folder of all that has to do with one content."""
        cell = cache_folder(self._config.requirements_cache, self._config.temp_dir) / installation.key()
        cell.mkdir(exist_ok=True)
        return cell


async def _make(installation: Installation, cell: Path, lock_fd: int) -> Path:
    await asyncio.to_thread(_remove_leftovers, cell)
    folder = Path(tempfile.mkdtemp(prefix="build-", dir=cell))
    model = installation.transcript.model
    log.info("Model %s: installing the packages of %s in %s", model, installation.requirements_file, folder)
    try:
        await installation.run(folder, lock_fd)
        _make_current(folder)
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        raise
    log.info("Model %s: its packages are installed", model)
    return _python_in(folder)


def _python_in(folder: Path) -> Path:
    return folder / "bin" / "python"


def _current(cell: Path) -> Path | None:
    """Interpreter of the complete environment, if there is one."""
    try:
        python = _python_in(cell / (cell / "current").read_text())
    except FileNotFoundError:
        return None
    return python if python.exists() else None


def _make_current(folder: Path) -> None:
    written = folder / "name"
    written.write_text(folder.name)
    written.replace(folder.parent / "current")


def _remove_leftovers(cell: Path) -> None:
    """Of a server that was killed: its lock is free, and there is no complete environment."""
    for folder in cell.glob("build-*"):
        shutil.rmtree(folder, ignore_errors=True)


def cache_folder(configured: Path | None, temp_dir: Path) -> Path:
    """Where environments are kept: as configured, else in the user's cache folder, else in the temporary one.

    Raises:
        OSError: it cannot be made, or other users could put their code there.
    """
    if configured is not None:
        return _own_folder(configured)
    with contextlib.suppress(OSError, RuntimeError):  # accounts of services have no home, or one that is not there
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folder = _own_folder(cache / "modelserver" / "environments")
        if os.access(folder, os.W_OK):
            return folder
    return _own_folder(temp_dir / f"modelserver-environments-{os.getuid()}")


def _own_folder(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022:
        raise PermissionError(
            f"{folder} can be written by other users: take that right away, or set requirements_cache to another folder"
        )
    return folder


@contextlib.asynccontextmanager
async def _file_lock(path: Path) -> AsyncIterator[int]:
    """Holds the lock on a file; gives its descriptor. Processes that inherit it hold the lock, too."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _try_lock(fd):  # noqa: ASYNC110 (its holder may be another process)
            await asyncio.sleep(_LOCK_POLL_S)
        yield fd
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
