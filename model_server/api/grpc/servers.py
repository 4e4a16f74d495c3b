"""The two gRPC servers: which services are on which port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from model_server.api.grpc.calls import Observer, Service, rpc_handler
from model_server.api.grpc.credentials import server_credentials
from model_server.api.grpc.health import HealthService
from model_server.api.grpc.inference import InferenceService
from model_server.api.grpc.listener import GrpcListener
from model_server.api.grpc.management import ManagementService
from model_server.api.grpc.open_inference import OpenInferenceService
from model_server.api.health import HealthApi
from model_server.api.model_management import ModelManagement
from model_server.api.tls import Tls
from model_server.config.addresses import Address
from model_server.config.grpc import GrpcPort
from model_server.config.server import ServerConfig
from model_server.serving.registry import Registry
from model_server.tokens import Scope

# Probes have no tokens, as on the HTTP ports.
_PROBES = frozenset({"Ping", "Check", "Watch", "ServerLive", "ServerReady"})


class GrpcServers:
    """The state here is the listeners.

    Args:
        observe: is told of every call when it ends.
        check: raises for an `authorization` that does not open a scope; None: nothing is guarded.
        tls: has the certificate, for ports that use TLS.
    """

    def __init__(
        self,
        registry: Registry,
        models: ModelManagement,
        health: HealthApi,
        config: ServerConfig,
        observe: Observer,
        check: Callable[[Scope, str | None], None] | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._config = config
        self._observe = observe
        self._check = check
        self._tls = tls
        self._stopping = asyncio.Event()
        probes = HealthService(registry, health, self._stopping)
        inference: list[Service] = [InferenceService(registry, config, self._stopping), probes]
        if config.grpc.open_inference:
            inference.append(OpenInferenceService(registry, health))
        self._listeners = [
            self._listener(config.grpc.inference, inference, "inference"),
            self._listener(config.grpc.management, [ManagementService(models, config), probes], "management"),
        ]

    async def start(self) -> tuple[Address, Address]:
        """Returns the addresses of inference and management. Raises OSError when one cannot be had."""
        inference, management = [await listener.start() for listener in self._listeners]
        return inference, management

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls; those that could go on for ever are ended, others have `grace_s` to finish."""
        self._stopping.set()
        await asyncio.gather(*(listener.stop(grace_s) for listener in self._listeners))

    def _listener(self, port: GrpcPort, services: Sequence[Service], scope: Scope) -> GrpcListener:
        guard = self._check and partial(self._check, scope)
        handlers = [rpc_handler(service, guard, self._observe, _PROBES) for service in services]
        # One for each port: gRPC hands the first certificate out once.
        credentials = server_credentials(self._tls) if self._tls is not None and port.address.is_tls else None
        return GrpcListener(port, handlers, self._config.max_request_size_bytes, credentials)
