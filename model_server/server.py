"""The frontend process: builds everything, opens the listeners, loads start-up models, serves until told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from model_server.api.access_log import AccessLog
from model_server.api.auth import Tokens
from model_server.api.health import HealthApi
from model_server.api.inference import InferenceApi
from model_server.api.management import ManagementApi
from model_server.api.metrics import MetricsApi
from model_server.api.model_management import ModelManagement
from model_server.api.open_inference import OpenInferenceApi
from model_server.api.openapi import describe_api
from model_server.api.operations import INFERENCE, MANAGEMENT, METRICS, OPEN_INFERENCE, TOKENS, Operation
from model_server.api.sites import DRAIN_TIMEOUT_S, Guard, Route, Site
from model_server.api.tls import Tls
from model_server.config.addresses import Address
from model_server.config.server import ServerConfig
from model_server.config.startup_info import startup_info
from model_server.errors import ServerError
from model_server.logs.server_logs import ServerLogs
from model_server.metrics.server_metrics import ServerMetrics
from model_server.metrics.system_watch import watch_system
from model_server.serving.children import bury_orphans
from model_server.serving.model import Model
from model_server.serving.placement import Gpu, Placement, available_cores
from model_server.serving.registry import Registry
from model_server.serving.snapshot import SnapshotWriter
from model_server.serving.starter import WorkerStarter
from model_server.serving.store import ModelStore
from model_server.serving.template import Template
from model_server.status import StatusEvent, StatusReport
from model_server.tokens import KEY_FILE, KeyFileError, Scope

if TYPE_CHECKING:
    from model_server.api.grpc.servers import GrpcServers

log = logging.getLogger(__name__)

# Built-in handlers for which the launcher can suggest a request.
_TAKE_TEXT = ("transformer_handler", "text_classifier")


@dataclass(frozen=True, slots=True)
class ModelStart:
    """A model that is there from the start, and what registers it."""

    name: str
    url: str
    register: Callable[[], Awaitable[Model]]


class Server:
    """Composition root. The state here is the listeners and the registry, made in `serve` and ended there.

    Args:
        gpus: those that models may be put on.
        template: what workers are forked from; None: they are fresh processes. Whoever made it ends it.
    """

    def __init__(
        self,
        config: ServerConfig,
        report: StatusReport,
        logs: ServerLogs,
        gpus: Sequence[Gpu],
        template: Template | None,
    ) -> None:
        self._config = config
        self._report = report
        self._logs = logs
        self._gpus = gpus
        self._starter = WorkerStarter(template)
        self._access_log = AccessLog(logs.write_later)
        self._metrics = ServerMetrics(config.metrics, socket.gethostname() or "Unknown", logs.write_later)
        self._sites: list[Site] = []
        self._grpc: GrpcServers | None = None
        lifetime = timedelta(minutes=config.token_expiration_min)
        self._tls = Tls(config.tls) if config.tls is not None else None
        self._reloading: asyncio.Task[None] | None = None
        self._tokens = None if config.disable_token_authorization else Tokens(Path.cwd() / KEY_FILE, lifetime)

    async def serve(self) -> int:
        stop = _stop_signal()
        self._renew_on_hangup()
        store = ModelStore(self._config.model_stores, self._config.temp_dir, self._config.downloads)
        try:
            await asyncio.to_thread(store.sweep)
            cores = available_cores()
            placement = Placement(self._gpus, cores)
            registry = Registry(self._config, store, placement, cores, self._metrics, self._starter)
            self._metrics.before_writing(registry.look)
            snapshots = SnapshotWriter(self._config, registry) if self._config.writes_snapshots else None
            health = HealthApi(registry)
            log.info("", extra={"detail": startup_info(self._config, cores, len(placement.gpus))})
            try:
                await self._listen(registry, health)
            except OSError as error:
                text = f"Cannot listen on {error}. Stop what uses it, or set another address in config.properties."
                return self._cannot_start(text)
            except KeyFileError as error:
                text = "Start the server in a folder that it may write to, or with --disable-token-auth."
                return self._cannot_start(f"{error} {text}")
            # What the imports have left is never garbage. Full collections, which a busy log brings about every second,
            # looked at all of it: p99 of the echo at 16 clients was 16 ms, without it 12.
            gc.freeze()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._load_startup_models(registry, store, health, snapshots))]
                tasks.append(group.create_task(bury_orphans()))
                names = [gpu.visible_as for gpu in placement.gpus]
                if (interval_s := self._config.metrics.interval_s) is not None:
                    tasks.append(group.create_task(watch_system(self._metrics, interval_s, names)))
                await stop.wait()
                log.info("Stopping: no new connections, running requests are finished.")
                for task in tasks:
                    task.cancel()
            await self._drain(registry, snapshots)
        finally:
            store.close()
            if self._tokens is not None:
                self._tokens.withdraw()
        log.info("Stopped.")
        return 0

    async def _listen(self, registry: Registry, health: HealthApi) -> None:
        config = self._config
        models = ModelManagement(registry)
        inference = [health.route, InferenceApi(registry).route]
        if config.grpc.open_inference:
            inference.append(OpenInferenceApi(health).route)
        management = [ManagementApi(registry, models, config).route, *([self._tokens.route] if self._tokens else [])]
        served = [*INFERENCE, *(OPEN_INFERENCE if config.grpc.open_inference else ())]
        managed = [*MANAGEMENT, *(TOKENS if self._tokens else ())]
        if config.is_combined_listener:
            routes = [self._describe([*served, *managed]), *inference, *management]
            address = await self._open(routes, config.inference_address, None)
            addresses = address, address
        else:
            routes = [self._describe(managed), health.route, *management]
            addresses = (
                await self._open([self._describe(served), *inference], config.inference_address, "inference"),
                await self._open(routes, config.management_address, "management"),
            )
        for what, address in zip(("Inference", "Management"), addresses, strict=True):
            log.info("%s address: %s", what, address)
        metrics = await self._open_metrics(health)
        grpc_inference, grpc_management = await self._listen_grpc(registry, models, health)
        self._publish_tokens()
        self._report.send(
            StatusEvent(
                event="listening",
                inference=str(addresses[0]),
                management=str(addresses[1]),
                metrics=str(metrics) if metrics else None,
                grpc_inference=grpc_inference,
                grpc_management=grpc_management,
                key_file=str(self._tokens.key_file) if self._tokens else None,
            )
        )

    async def _open_metrics(self, health: HealthApi) -> Address | None:
        """`/metrics` needs no token: whoever collects it has none."""
        if self._config.metrics.address is None:
            return None
        site = self._new_site([self._describe(METRICS), health.route, MetricsApi(self._metrics).route], guard=None)
        address = await self._start(site, self._config.metrics.address)
        log.info("Metrics address: %s", address)
        return address

    async def _listen_grpc(
        self, registry: Registry, models: ModelManagement, health: HealthApi
    ) -> tuple[str, str] | tuple[None, None]:
        """Returns where inference and management listen, host:port."""
        try:
            from model_server.api.grpc.servers import GrpcServers
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("grpc", "google"):
                raise
            log.warning("gRPC is not served: pip install 'modelserver[grpc]' installs what it needs (%s).", error)
            return None, None
        observe, check = self._access_log.grpc_call, self._tokens.check if self._tokens else None
        self._grpc = GrpcServers(registry, models, health, self._config, observe, check, self._tls)
        addresses = await self._grpc.start()
        for what, address in zip(("inference", "management"), addresses, strict=True):
            self._warn_of_open_door(address)
            log.info("gRPC %s address: %s", what, address)
        return addresses[0].authority, addresses[1].authority

    def _describe(self, operations: Sequence[Operation]) -> Route:
        return describe_api(operations, has_tokens=self._tokens is not None)

    def _warn_of_open_door(self, address: Address) -> None:
        if self._tokens is None and not address.is_local:
            log.warning("%s can be reached from other machines, and requests need no token.", address)

    def _publish_tokens(self) -> None:
        """Not before the listeners are there: a second server that gets none must not replace the first one's file."""
        if self._tokens is None:
            return
        self._tokens.publish()
        banner = (
            f"######\nRequests need a token, as in TorchServe.\nKey file located at {self._tokens.key_file}\n"
            "modelserver token show prints the header to send; --disable-token-auth turns tokens off.\n######"
        )
        log.info("", extra={"detail": banner})

    async def _open(self, routes: Sequence[Route], address: Address, scope: Scope | None) -> Address:
        """`scope`: whose keys open it; None: those of both APIs, each for its own paths."""
        self._warn_of_open_door(address)
        site = self._new_site(routes, self._tokens.guard(scope) if self._tokens else None)
        return await self._start(site, address)

    def _new_site(self, routes: Sequence[Route], guard: Guard | None) -> Site:
        def count(request: web.Request, response: web.StreamResponse) -> None:
            self._metrics.responded(response.status)

        site = Site(routes, self._config, guard, [self._access_log, count], self._tls)
        self._sites.append(site)
        return site

    @staticmethod
    async def _start(site: Site, address: Address) -> Address:
        try:
            return await site.start(address)
        except OSError as error:
            raise OSError(f"{address}: {error.strerror or error}") from error

    def _renew_on_hangup(self) -> None:
        """A terminal that is closed sends the same signal: a server in one ends with it."""
        if os.isatty(0):
            return

        def renew() -> None:
            self._logs.reopen()
            if self._tls is not None:
                self._reloading = asyncio.create_task(self._tls.reload(), name="renewed certificate")

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, renew)

    def _cannot_start(self, message: str) -> int:
        log.error("%s", message)
        self._report.send(StatusEvent(event="error", message=message))
        return 1

    async def _load_startup_models(
        self, registry: Registry, store: ModelStore, health: HealthApi, snapshots: SnapshotWriter | None
    ) -> None:
        """Registers all, then starts the workers of all: how many there are decides how many threads each may use."""
        models = [(start, await self._register(start)) for start in self._starts(registry, store)]
        waits = [asyncio.create_task(self._start_workers(model)) for _, model in models if model is not None]
        health.started(refused=[start.name for start, model in models if model is None])
        if snapshots is not None:
            registry.watch(snapshots.request)
            snapshots.request("startup")
        self._logs.announce("Model server started.")
        self._report.send(StatusEvent(event="started"))
        await asyncio.gather(*waits)
        self._report.send(StatusEvent(event="ready"))
        self._report.close()

    def _starts(self, registry: Registry, store: ModelStore) -> list[ModelStart]:
        restored = self._config.model_snapshot
        if restored is not None:
            return [ModelStart(each.name, each.source, partial(registry.restore, each)) for each in restored]
        items = store.list_all() if self._config.load_models == "all" else self._config.load_models
        register = registry.register_at_startup
        return [ModelStart(item.name or item.url, item.url, partial(register, item)) for item in items]

    async def _register(self, start: ModelStart) -> Model | None:
        try:
            return await start.register()
        except ServerError as error:
            reason = error.message
        except Exception:
            log.exception("An unexpected error while loading %s", start.url)
            reason = "Internal server error; the server's log has the cause."
        log.error("Failed to load model: %s: %s", start.url, reason)
        self._report.send(StatusEvent(event="model", name=start.name, state="FAILED", reason=reason))
        return None

    async def _start_workers(self, model: Model) -> None:
        """Reports the model when its workers are ready or the first has failed; those go on trying."""
        identity, settings = model.identity, model.settings
        try:
            error = await model.scale(settings.min_workers, settings.max_workers)
        except ServerError as failure:
            error = failure
        if error is not None:
            log.error("Failed to load model: %s: %s", identity.url, error.message)
        self._report.send(
            StatusEvent(
                event="model",
                name=identity.name,
                version=identity.version,
                state="READY" if error is None else "FAILED",
                takes_text=identity.handler in _TAKE_TEXT,
                reason=error.message if error else None,
            )
        )

    async def _drain(self, registry: Registry, snapshots: SnapshotWriter | None) -> None:
        stops = [site.stop() for site in self._sites]
        if self._grpc is not None:
            stops.append(self._grpc.stop(DRAIN_TIMEOUT_S))
        await asyncio.gather(*stops)
        if snapshots is not None:
            await snapshots.close()
        await registry.close()


def _stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second one ends the process at once, and with it the workers."""
    stop = asyncio.Event()

    def stopping() -> None:
        if stop.is_set():
            sys.stderr.write("Stopped at once.\n")
            os._exit(1)
        stop.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stopping)
    return stop
