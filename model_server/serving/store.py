"""Where archives come from: names, folders and files -> a checked folder to serve from.

Everything slow here (unpacking, checks, YAML) runs in threads: the event loop goes on answering.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from archiver.errors import ArchiverError, InvalidArchive
from archiver.handler_names import BUILTIN_NAMES
from archiver.manifest import Manifest, load
from archiver.unpack import check_files, resolve_model_root, unpack
from model_server.config.model_config import ModelConfig, parse_model_config
from model_server.config.server import DownloadRules, StartupModel
from model_server.errors import InvalidModel, ModelNotFound, ServerError
from model_server.serving.download import Downloads, is_remote
from model_server.serving.private_folder import PrivateFolder
from model_server.serving.s3_signature import sign_get
from model_server.serving.unpacked import ArchiveState, UnpackedArchives

log = logging.getLogger(__name__)

_ARCHIVE_SUFFIXES = (".mar", ".model", ".tar.gz")


@dataclass(frozen=True, slots=True)
class OpenedArchive:
    """A model's files, ready to be served from.

    Attributes:
        root: folder with the handler, the weights and `MAR-INF`.
        owned: folder to delete when the model goes; None when the files belong to the operator.
        downloaded: file to delete from the store when the model goes; None when this server has not fetched it.
        config: what the server reads of model-config.yaml; None without one.
        python: interpreter of an environment of its own; None: the server's.
    """

    root: Path
    owned: Path | None
    manifest: Manifest | None
    config: ModelConfig | None
    warnings: tuple[str, ...] = ()
    python: str | None = None
    downloaded: Path | None = None


class ModelStore:
    """Opens archives of the model stores: the first one that has what is asked for counts, and gets what is fetched.

    The state here is a private folder with one unpacked archive per registered version, and what is known of them.
    """

    def __init__(self, folders: Sequence[Path], temp_dir: Path, rules: DownloadRules) -> None:
        self._folders = tuple(folders)
        self._downloads = Downloads(self._folders[0], rules) if self._folders else None
        self._private = PrivateFolder(temp_dir)
        self._unpacked = UnpackedArchives()

    async def open(
        self, url: str, *, startup: bool, s3_sse_kms: bool = False, handler: str | None = None
    ) -> OpenedArchive:
        """Finds, checks and unpacks what `url` names; fetches it before where that is allowed.

        Args:
            startup: for the operator: folders outside the model stores are accepted, and a file that was fetched by an
                earlier run is used as it is.
            s3_sse_kms: fetch it with the AWS keys of our environment.
            handler: the one it will be served with; None: the archive's own.

        Raises:
            ModelNotFound: there is no such archive, or it may not be fetched.
            DownloadFailed: it cannot be fetched.
            InvalidModel: what is there cannot be served; nothing of it is left behind.
        """
        _check_url(url)
        if self._downloads is None:
            raise ModelNotFound("Model store has not been configured.")
        if not is_remote(url):
            return await asyncio.to_thread(self._open, url, startup, handler)
        target = self._downloads.target(url)
        if startup and await asyncio.to_thread(target.is_file):
            return await asyncio.to_thread(self._open_file, url, target, handler)
        headers = sign_get(url, os.environ, datetime.now(UTC)) if s3_sse_kms else {}
        await self._downloads.fetch(url, headers)
        try:
            archive = await asyncio.to_thread(self._open_file, url, target, handler)
        except BaseException:
            await asyncio.to_thread(target.unlink, missing_ok=True)
            raise
        return replace(archive, downloaded=target)

    async def discard(self, archive: OpenedArchive) -> None:
        if archive.owned is not None:
            self._unpacked.forget(archive.owned)
            await asyncio.to_thread(shutil.rmtree, archive.owned, ignore_errors=True)
        if archive.downloaded is not None:
            await asyncio.to_thread(archive.downloaded.unlink, missing_ok=True)

    def sweep(self) -> None:
        """Removes what servers that were killed have left in the store and among temporary files."""
        self._private.sweep()
        if self._downloads is not None:
            self._downloads.sweep()

    def close(self) -> None:
        self._private.close()

    def list_all(self) -> list[StartupModel]:
        """What `--models all` means: every folder and archive of the stores that is not hidden."""
        names = {entry.name for folder in self._folders for entry in folder.iterdir() if _is_model(entry)}
        return [StartupModel(None, name) for name in sorted(names)]

    # --- in a thread ---

    def _open(self, url: str, any_folder: bool, handler: str | None) -> OpenedArchive:
        try:
            source = self._find(url, any_folder)
        except OSError as error:  # a name that is too long, a folder that may not be read
            raise ModelNotFound(f"Model not found at: {url}. {error.strerror}.") from error
        if source.is_dir():
            return _read(url, resolve_model_root(source), owned=None)
        return self._open_file(url, source, handler)

    def _open_file(self, url: str, source: Path, handler: str | None) -> OpenedArchive:
        target = self._private.path / uuid.uuid4().hex
        try:
            state, is_foreign = ArchiveState.of(source), not _is_ours(handler)
            if not self._unpacked.reuse(state, target, runs_own_code=is_foreign):
                unpack(source, target)
            archive = _read(url, resolve_model_root(target), owned=target)
            if ArchiveState.of(source) == state:
                self._unpacked.add(state, target, runs_own_code=is_foreign or not _has_our_handler(archive.manifest))
            return archive
        except BaseException as error:
            self._unpacked.forget(target)
            shutil.rmtree(target, ignore_errors=True)
            raise _translate(error, url) from error

    def _find(self, url: str, any_folder: bool) -> Path:
        """Resolution order of TorchServe's `url`: a file of a store by its last component, then folders.

        An entry of a store may be a link to anywhere: whoever put it there owns the store. A folder deeper inside is
        named by the client, and may not be reached through links that lead out.
        """
        name = Path(url).name
        in_stores = [store / name for store in self._folders] if name else []
        for entry in in_stores:
            if entry.is_file():
                return entry
        folder = Path(url)
        if folder.is_dir() and (any_folder or self._is_inside(folder)):
            return folder.resolve()
        for entry in in_stores:
            if entry.is_dir():
                return entry
        raise ModelNotFound(f"Model not found at: {url}")

    def _is_inside(self, folder: Path) -> bool:
        return any(folder.resolve().is_relative_to(store.resolve()) for store in self._folders)


def _is_ours(handler: str | None) -> bool:
    return handler is None or handler in BUILTIN_NAMES


def _has_our_handler(manifest: Manifest | None) -> bool:
    return manifest is not None and manifest.model.handler in BUILTIN_NAMES


def _check_url(url: str) -> None:
    if not url:
        raise ModelNotFound("empty url")
    if ".." in url:
        raise ModelNotFound(f"Relative path is not allowed in url: {url}")


def _is_model(entry: Path) -> bool:
    if entry.name.startswith("."):
        return False
    return entry.is_dir() or (entry.is_file() and entry.name.endswith(_ARCHIVE_SUFFIXES))


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
