"""Where archives come from: names, folders and files -> a checked folder to serve from.

Everything slow here (unpacking, checks, YAML) runs in threads: the event loop goes on answering.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from archiver.errors import ArchiverError, InvalidArchive
from archiver.manifest import Manifest, load
from archiver.unpack import check_files, resolve_model_root, unpack
from model_server.config.model_config import ModelConfig, parse_model_config
from model_server.config.server import StartupModel
from model_server.errors import InvalidModel, ModelNotFound, ServerError

log = logging.getLogger(__name__)

_ARCHIVE_SUFFIXES = (".mar", ".model", ".tar.gz")
_URL_SCHEME = re.compile(r"(file|https?)://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class OpenedArchive:
    """A model's files, ready to be served from.

    Attributes:
        root: folder with the handler, the weights and `MAR-INF`.
        owned: folder to delete when the model goes; None when the files belong to the operator.
        config: what the server reads of model-config.yaml; None without one.
        python: interpreter of an environment of its own; None: the server's.
    """

    root: Path
    owned: Path | None
    manifest: Manifest | None
    config: ModelConfig | None
    warnings: tuple[str, ...] = ()
    python: str | None = None


class ModelStore:
    """Opens archives of one model store.

    The state here is a private folder with one unpacked archive per registered version.
    """

    def __init__(self, folder: Path | None, temp_dir: Path) -> None:
        self._folder = folder
        self._unpacked = Path(tempfile.mkdtemp(prefix="modelserver-", dir=temp_dir))

    async def open(self, url: str, *, any_folder: bool) -> OpenedArchive:
        """Finds, checks and unpacks what `url` names.

        Args:
            any_folder: folders outside the model store are accepted (command line), not only those inside (management).

        Raises:
            ModelNotFound: there is no such archive, or it may not be fetched.
            InvalidModel: what is there cannot be served; nothing of it is left behind.
        """
        return await asyncio.to_thread(self._open, url, any_folder)

    async def discard(self, archive: OpenedArchive) -> None:
        if archive.owned is not None:
            await asyncio.to_thread(shutil.rmtree, archive.owned, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self._unpacked, ignore_errors=True)

    def list_all(self) -> list[StartupModel]:
        """What `--models all` means: every folder and archive of the store that is not hidden."""
        if self._folder is None:
            return []
        entries = sorted(entry for entry in self._folder.iterdir() if not entry.name.startswith("."))
        return [
            StartupModel(None, entry.name)
            for entry in entries
            if entry.is_dir() or (entry.is_file() and entry.name.endswith(_ARCHIVE_SUFFIXES))
        ]

    # --- in a thread ---

    def _open(self, url: str, any_folder: bool) -> OpenedArchive:
        try:
            source = self._find(url, any_folder)
        except OSError as error:  # a name that is too long, a folder that may not be read
            raise ModelNotFound(f"Model not found at: {url}. {error.strerror}.") from error
        if source.is_dir():
            return _read(url, resolve_model_root(source), owned=None)
        target = self._unpacked / uuid.uuid4().hex
        try:
            unpack(source, target)
            return _read(url, resolve_model_root(target), owned=target)
        except BaseException as error:
            shutil.rmtree(target, ignore_errors=True)
            raise _translate(error, url) from error

    def _find(self, url: str, any_folder: bool) -> Path:
        """Resolution order of TorchServe's `url`: a file of the store by its last component, then folders."""
        if not url:
            raise ModelNotFound("empty url")
        if ".." in url:
            raise ModelNotFound(f"Relative path is not allowed in url: {url}")
        if _URL_SCHEME.match(url):
            raise ModelNotFound(f"Given URL {url} does not match any allowed URL(s)")
        if self._folder is None:
            raise ModelNotFound("Model store has not been configured.")
        in_store = self._folder / Path(url).name
        if in_store.is_file():
            return in_store
        folder = Path(url)
        if folder.is_dir() and (any_folder or folder.resolve().is_relative_to(self._folder.resolve())):
            return folder.resolve()
        if in_store.is_dir() and in_store != self._folder:
            return in_store
        raise ModelNotFound(f"Model not found at: {url}")


def _read(url: str, root: Path, owned: Path | None) -> OpenedArchive:
    try:
        manifest = load(root)
    except ArchiverError as error:
        raise InvalidModel(str(error)) from error
    if manifest is None:
        return OpenedArchive(root, owned, None, None)
    if problems := check_files(root, manifest):
        raise InvalidModel(f"The archive {Path(url).name} cannot be served. {' '.join(problems)}")
    config_file = manifest.model.config_file
    if config_file is None:
        return OpenedArchive(root, owned, manifest, None)
    config, warnings = parse_model_config((root / config_file).read_bytes())
    return OpenedArchive(root, owned, manifest, config, tuple(map(str, warnings)))


def _translate(error: BaseException, url: str) -> BaseException:
    """Errors of reading and writing files, in the words of the API."""
    match error:
        case InvalidArchive():
            return InvalidModel(f"Failed to save model: {url}. {error}")
        case OSError():
            log.error("Opening %s failed: %s", url, error)
            return ServerError(f"Failed to save model: {url}. {error.strerror}.")
        case _:
            return error


def derived_name(url: str) -> str:
    """Model name for a start-up model that has none: its file name, made safe."""
    name = Path(url).name
    if ".mar" in name or ".model" in name:
        name = name.rpartition(".")[0]
    return re.sub(r"\W|^_", "_", name, flags=re.ASCII)
