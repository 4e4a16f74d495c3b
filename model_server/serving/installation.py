"""Makes one virtual environment for a model: venv, the server's packages behind its own, pip.

An environment is a plain venv. Its last .pth file adds the folders of the server's packages: torch and all else that
fits is shared, and what a model wants in another version comes first for that model alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model_server.errors import InstallationFailed
from model_server.logs import printable
from model_server.serving.interpreter import Interpreter
from model_server.serving.programs import run_program
from model_server.serving.requirements import content_hashes

log = logging.getLogger(__name__)

# Part of every key: raise it when environments are made in another way.
_LAYOUT = 1
_KEPT_LINES = 15
_LONGEST_KEPT_LINE = 500
# .pth files are read in the order of their names: what the model's own packages add comes first.
_PTH_NAME = "zzz_modelserver.pth"
# TorchServe's literal texts.
PIP_FAILED = "Custom pip package installation failed for model"
_VENV_FAILED = "Virtual environment creation failed for model"


@dataclass(slots=True)
class Transcript:
    """What venv and pip print for one model. The state here is the last lines, for the error message."""

    model: str
    _lines: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))

    def add(self, line: str) -> None:
        line = printable(line)
        log.info("Model %s: pip: %s", self.model, line)
        if line.strip():
            self._lines.append(line.strip()[:_LONGEST_KEPT_LINE])

    def __str__(self) -> str:
        """The last lines, from the first one on that says error, if one does."""
        lines = list(self._lines)
        errors = (number for number, line in enumerate(lines) if line.lower().startswith("error"))
        return " | ".join(lines[next(errors, 0) :])


@dataclass(frozen=True, slots=True)
class Installation:
    """What one environment is made of.

    Attributes:
        root: the model's folder; programs run there.
        requirements_file: relative to `root`.
        server: the interpreter that it is made for.
        variables: the whole environment of venv and pip.
        transcript: is given what they print.
    """

    root: Path
    requirements_file: str
    server: Interpreter
    variables: Mapping[str, str]
    transcript: Transcript

    def key(self) -> str:
        """Equal for all that leads to an equal environment. Reads every file that the requirements name."""
        content = content_hashes(self.root, self.requirements_file)
        parts = [_LAYOUT, self.requirements_file, content, self.server.fingerprint]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    async def run(self, folder: Path, lock_fd: int) -> None:
        """Makes the environment in a folder that is empty.

        Args:
            lock_fd: is inherited by pip, so that the lock outlives a server that is killed for as long as pip does.

        Raises:
            InstallationFailed: with the last lines of what was printed.
            OSError: a file cannot be written.
        """
        await self._make_venv(folder)
        self._add_packages_of_server(folder)
        await self._install(folder, lock_fd)

    async def _make_venv(self, folder: Path) -> None:
        # The server's pip is seen like its other packages; a copy takes seconds.
        options = ["--without-pip"] if self.server.has_pip else []
        command = [self.server.executable, "-P", "-m", "venv", *options, str(folder)]
        if await self._run(command, self.variables) != 0:
            raise InstallationFailed(f"{_VENV_FAILED} {self.transcript.model}. {self.transcript}")

    def _add_packages_of_server(self, folder: Path) -> None:
        # addsitedir reads the .pth files of those folders, too: development installations are seen.
        calls = "; ".join(f"site.addsitedir({path!r})" for path in self.server.site_folders)
        (folder / self.server.venv_site_folder / _PTH_NAME).write_text(f"import site; {calls}\n")

    async def _install(self, folder: Path, lock_fd: int) -> None:
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join(self.server.constraints))
        temporary = folder / "tmp"
        temporary.mkdir()
        # -P: a file of the archive must not stand in for a module that pip imports.
        # No --upgrade: what the server has is left alone where it suits, and no index is asked about it.
        command = [str(folder / "bin" / "python"), "-P", "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
        command += ["--disable-pip-version-check", "-r", self.requirements_file, "-c", str(constraints)]
        variables = {**self.variables, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
        if await self._run(command, variables, (lock_fd,)) != 0:
            raise InstallationFailed(f"{PIP_FAILED} {self.transcript.model}. {self.transcript}{self._hint()}")
        shutil.rmtree(temporary, ignore_errors=True)

    def _hint(self) -> str:
        """pip does not say where its constraints come from."""
        if "(constraint)" not in str(self.transcript):
            return ""
        return f" | All models share the server's {', '.join(self.server.constraints)}: these are not replaced."

    async def _run(self, command: list[str], variables: Mapping[str, str], pass_fds: tuple[int, ...] = ()) -> int:
        return await run_program(
            command, folder=self.root, environment=variables, on_line=self.transcript.add, pass_fds=pass_fds
        )
