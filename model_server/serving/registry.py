"""All registered models: names, versions, which version is the default."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace

from model_server.config.model_snapshot import SnapshotModel
from model_server.config.resolve import (
    ModelSettings,
    RegisterOverrides,
    find_overrides,
    resolve_model,
    restore_settings,
)
from model_server.config.server import ServerConfig, StartupModel
from model_server.errors import (
    BadRequest,
    Conflict,
    DefaultVersionInUse,
    InvalidModel,
    ModelNotFound,
    ModelVersionNotFound,
    RequestTimeout,
    ServerError,
    WorkersFailed,
)
from model_server.metrics.server_metrics import ServerMetrics
from model_server.serving.environments import Environments
from model_server.serving.model import Host, Model, ModelIdentity
from model_server.serving.placement import Placement
from model_server.serving.starter import WorkerStarter
from model_server.serving.store import ModelStore, OpenedArchive, derived_name

log = logging.getLogger(__name__)

# What the archiver accepts as a name; a slash or a line break in one would make the model unreachable.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]{0,127}")
_VERSION = re.compile(r"[^\s/\\\x00-\x1f]{1,128}")
_DEFAULT_VERSION = "1.0"
# What workers have for ending, and for what nobody waits for, when the server ends.
_LAST_S = 5


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    """A registration as its caller states it; None: not given.

    Attributes:
        s3_sse_kms: fetch the archive with the AWS keys of the server's environment.
        restored: what a snapshot says about it, which then holds.
    """

    url: str
    model_name: str | None = None
    handler: str | None = None
    overrides: RegisterOverrides = field(default_factory=RegisterOverrides)
    synchronous: bool = True
    s3_sse_kms: bool = False
    restored: SnapshotModel | None = None


@dataclass(slots=True)
class Versions:
    """The versions of one name, in order of registration. The first one is the default until `set_default`."""

    models: dict[str, Model] = field(default_factory=dict)
    default: str = ""


class Registry:
    """Names to versions to models.

    The state here is `_names`; only `_insert`, `_remove` and `set_default` change it, without an await in between, so
    that requests see either the old or the new state. Beside it stands `unrestored`: what a snapshot names and could
    not be registered, so that later snapshots do not lose it.
    """

    def __init__(
        self,
        config: ServerConfig,
        store: ModelStore,
        placement: Placement,
        cores: int,
        metrics: ServerMetrics,
        starter: WorkerStarter,
    ) -> None:
        self._config = config
        self._store = store
        self._cores = cores
        self._host = Host(config, placement, itertools.count(config.initial_worker_port), metrics, starter)
        self._environments = Environments(config)
        self._names: dict[str, Versions] = {}
        self._watchers: list[Callable[[], None]] = []
        self.startup_models: list[str] = []
        self.unrestored: list[SnapshotModel] = []

    def look(self) -> None:
        """Takes the measures of all models that are only of use at the moment."""
        for model in self:
            model.look()

    def watch(self, changed: Callable[[], None]) -> None:
        """Has `changed` called after every change that the next start has to know of."""
        self._watchers.append(changed)

    # --- looking up ---

    def get(self, name: str, version: str | None = None) -> Model:
        """The named version, or the default one. Raises `ModelNotFound` or `ModelVersionNotFound`."""
        versions = self._names.get(name)
        if versions is None:
            raise ModelNotFound(f"Model not found: {name}")
        model = versions.models.get(version or versions.default)
        if model is None:
            raise ModelVersionNotFound(f"Model version: {version} does not exist for model: {name}")
        return model

    def versions(self, name: str) -> list[Model]:
        self.get(name)
        return list(self._names[name].models.values())

    def default_models(self) -> list[Model]:
        """The default version of every name, sorted by name."""
        return [self.get(name) for name in sorted(self._names)]

    @property
    def is_healthy(self) -> bool:
        """What `/ping` says: no default version misses a worker that it had."""
        return all(model.is_healthy for model in self.default_models())

    def __iter__(self) -> Iterator[Model]:
        return (model for versions in self._names.values() for model in versions.models.values())

    # --- changing ---

    async def register(self, request: RegisterRequest) -> Model:
        """Opens the archive, registers it and starts its workers.

        A synchronous registration is a transaction: it returns when all workers are ready, and one that fails leaves
        nothing behind. An asynchronous one returns when the workers are being started.
        """
        model = await self._open(request, startup=False)
        if not model.settings.min_workers:
            self._changed()
            return model
        try:
            model.is_provisional = request.synchronous
            task = model.scale(model.settings.min_workers, model.settings.max_workers)
            if request.synchronous and (error := await task) is not None:
                raise _workers_failed(model, model.identity.version, error)
        except BaseException:
            await self._remove(model)
            raise
        model.is_provisional = False
        self._changed()
        return model

    async def register_at_startup(self, item: StartupModel) -> Model:
        """Like `register`, from any folder, without workers; the caller starts them."""
        model = await self._open(RegisterRequest(item.url, item.name), startup=True)
        self.startup_models.append(model.identity.name)
        return model

    async def restore(self, entry: SnapshotModel) -> Model:
        """Registers a version as a snapshot has it, without workers; the caller starts them."""
        request = RegisterRequest(entry.source, entry.name, entry.handler, restored=entry)
        try:
            model = await self._open(request, startup=True)
        except ServerError:
            self.unrestored.append(entry)
            raise
        if model.identity.version != entry.version:
            text = "Model %s: the snapshot has version %s, %s is version %s"
            log.warning(text, entry.name, entry.version, entry.source, model.identity.version)
        elif entry.is_default:
            self._names[entry.name].default = entry.version
        return model

    async def scale(
        self, name: str, version: str | None, min_workers: int, max_workers: int, *, synchronous: bool
    ) -> None:
        model = self.get(name, version)
        task = model.scale(min_workers, max_workers)
        if synchronous and (error := await task) is not None:
            raise _workers_failed(model, version or "null", error)
        self._changed()

    def set_default(self, name: str, version: str) -> None:
        self.get(name)
        if version not in self._names[name].models:
            raise ModelVersionNotFound(f"Model version {version} does not exist for model {name}")
        self._names[name].default = version
        self._changed()

    async def unregister(self, name: str, version: str | None = None) -> None:
        """Ends a version's workers and forgets it.

        Raises `RequestTimeout` when the workers took too long and were killed; the version is still there then.
        """
        model = self.get(name, version)
        versions = self._names[name]
        if model.identity.version == versions.default and len(versions.models) > 1:
            raise DefaultVersionInUse(f"Cannot remove default version for model {name}")
        if not await self._stop(model, self._config.unregister_model_timeout_s):
            self._changed()
            raise RequestTimeout(f"Timed out while cleaning resources: {name}")
        await self._remove(model)
        self._changed()

    async def close(self) -> None:
        """Ends every worker, when no client waits any more; requests that still do are answered with an error."""
        timeout_s = min(_LAST_S, self._config.unregister_model_timeout_s)
        await asyncio.gather(*(self._stop(model, timeout_s) for model in self))

    async def _stop(self, model: Model, timeout_s: float) -> bool:
        """False when the workers were busy for longer than that and were killed."""
        try:
            async with asyncio.timeout(timeout_s):
                await model.stop()
        except TimeoutError:
            log.warning("Workers of model %s do not get done with their requests and are killed.", model.identity.name)
            model.kill_leaving()
            await model.stop()
            return False
        return True

    # --- in detail ---

    def _changed(self) -> None:
        for changed in self._watchers:
            changed()

    async def _open(self, request: RegisterRequest, *, startup: bool) -> Model:
        archive = await self._store.open(
            request.url, startup=startup, s3_sse_kms=request.s3_sse_kms, handler=request.handler
        )
        async with self._discard_on_error(archive):
            identity = self._identify(archive, request, startup)
            self._refuse_second(identity)
            python = await self._own_python(identity.name, archive)
            return self._insert(identity, replace(archive, python=python), request, startup)

    async def _own_python(self, name: str, archive: OpenedArchive) -> str | None:
        """The interpreter that has the packages an archive asks for; None where the server's will do."""
        requirements_file = archive.manifest and archive.manifest.model.requirements_file
        if not requirements_file:
            return None
        if not self._config.install_py_dep_per_model:
            text = "Model %s: its %s is not installed; install_py_dep_per_model=true lets archives install packages"
            log.warning(text, name, requirements_file)
            return None
        return await self._environments.python_for(name, archive.root, requirements_file)

    def _refuse_second(self, identity: ModelIdentity) -> None:
        if identity.version in self._names.get(identity.name, Versions()).models:
            raise Conflict(f"Model version {identity.version} is already registered for model {identity.name}")

    def _insert(
        self, identity: ModelIdentity, archive: OpenedArchive, request: RegisterRequest, startup: bool
    ) -> Model:
        self._refuse_second(identity)
        settings = self._resolve(identity, archive, request, startup)
        self._host.placement.check(identity.name, settings)
        model = Model(identity, archive, settings, self._host)
        versions = self._names.setdefault(identity.name, Versions(default=identity.version))
        versions.models[identity.version] = model
        log.info("Model %s version %s registered from %s", identity.name, identity.version, identity.url)
        return model

    def _identify(self, archive: OpenedArchive, request: RegisterRequest, startup: bool) -> ModelIdentity:
        entry = archive.manifest.model if archive.manifest else None
        fallback = derived_name(request.url) if startup else None
        name = request.model_name or (entry.model_name if entry else fallback)
        if name is None:
            raise InvalidModel(f"Model name is not defined. {request.url} has no manifest: give model_name.")
        version = entry.model_version if entry else _DEFAULT_VERSION
        for what, text, allowed in (("Model name", name, _NAME), ("Model version", version, _VERSION)):
            if not allowed.fullmatch(text):
                raise BadRequest(f"{what} {text[:128]!r} is not allowed: it must match {allowed.pattern}")
        handler = request.handler or (entry and entry.handler) or self._config.default_service_handler
        if handler is None:
            raise InvalidModel(
                f"{request.url} does not say which handler it needs: give handler=, set default_service_handler, "
                "or pack it with --handler."
            )
        runtime = request.overrides.runtime or (archive.manifest.runtime if archive.manifest else "python")
        if runtime == "LSP":
            raise InvalidModel(f"{request.url} has the runtime LSP: its handler is a C++ library, and we run Python.")
        if request.restored is not None:
            runtime = request.restored.runtime
        return ModelIdentity(name, version, request.url, handler, runtime, startup and request.restored is None)

    def _resolve(
        self, identity: ModelIdentity, archive: OpenedArchive, request: RegisterRequest, startup: bool
    ) -> ModelSettings:
        entry, entry_warning = find_overrides(self._config.models, identity.name, identity.version)
        settings = resolve_model(
            request.overrides,
            archive.config,
            entry,
            self._config,
            startup=startup,
            cpu_count=self._cores,
            gpu_count=len(self._host.placement.gpus),
        )
        if request.restored is not None:
            settings = restore_settings(settings, request.restored)
        for warning in (*archive.warnings, *filter(None, [entry_warning]), *settings.warnings):
            log.warning("Model %s: %s", identity.name, warning)
        return settings

    async def _remove(self, model: Model) -> None:
        """Forgets a model at once, then cleans up after it."""
        identity = model.identity
        versions = self._names.get(identity.name)
        if versions is not None and versions.models.get(identity.version) is model:
            del versions.models[identity.version]
            if not versions.models:
                del self._names[identity.name]
            elif versions.default == identity.version:
                versions.default = next(iter(versions.models))
        await model.stop()
        model.metrics.forget()
        await self._store.discard(model.archive)

    @contextlib.asynccontextmanager
    async def _discard_on_error(self, archive: OpenedArchive) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            await self._store.discard(archive)
            raise


def _workers_failed(model: Model, version: str, error: ServerError) -> WorkersFailed:
    name = model.identity.name
    text = f"Failed to start workers for model {name} version: {version}. {error.message}"
    return WorkersFailed(text, status=error.status)
