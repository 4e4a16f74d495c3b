"""The worker's life: load once, then answer requests until the frontend says stop or is gone."""

from __future__ import annotations

import gc
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Protocol

from model_server.wire.messages import Load, Loaded, ServingMode
from model_server.worker.calls import Worker
from model_server.worker.connection import Connection
from model_server.worker.continuous import ContinuousRunner
from model_server.worker.entry_point import build_context, load_entry_point
from model_server.worker.failures import load_failure
from model_server.worker.inbox import Inbox
from model_server.worker.outbox import Outbox
from model_server.worker.recorder import Recorder
from model_server.worker.runner import BatchRunner
from model_server.worker.streams import Streams

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_LOAD_FAILED = 3


class Runner(Protocol):
    """How requests reach the handler; one class per `ServingMode`."""

    def serve(self) -> None:
        """Runs to the end of the worker's life. Raises OSError when the frontend is gone."""
        ...


def serve(connection: Connection) -> int:
    """Runs to the end of the worker's life and returns its exit status."""
    try:
        load = connection.receive()
        return _serve_model(load, connection) if isinstance(load, Load) else EXIT_OK
    finally:
        connection.close()


def _serve_model(load: Load, connection: Connection) -> int:
    new_runner = runner_class(load.mode)
    try:
        worker = load_model(load, connection)
    except BaseException as error:
        failure = load_failure(error)
        sys.stderr.write(failure.detail)
        connection.send(failure)
        return EXIT_LOAD_FAILED
    # What loading left behind lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    worker.outbox.send(Loaded(worker.entry.capabilities))
    try:
        new_runner(worker).serve()
    except OSError:
        log.info("Frontend disconnected.")
    return EXIT_OK


def load_model(load: Load, connection: Connection) -> Worker:
    recorder, streams = Recorder(load.model_name), Streams()
    context = build_context(load, recorder.metrics)
    entry = load_entry_point(load.handler, load.envelope, context)
    initialized = entry.initialize(context)
    if inspect.iscoroutine(initialized):  # a function handler of an asynchronous model
        import asyncio

        asyncio.run(initialized)
    inbox, outbox = Inbox(connection, streams), Outbox(connection, streams, recorder)
    return Worker(entry, context, load, inbox, outbox, streams)


def runner_class(mode: ServingMode) -> Callable[[Worker], Runner]:
    """To be called before the archive's code is there, which may hide modules from a later import."""
    match mode:
        case "batch":
            return BatchRunner
        case "continuous":
            return ContinuousRunner
        case "async":
            # Most workers need no asyncio, which takes tens of milliseconds to import.
            from model_server.worker.asynchronous import AsyncRunner

            return AsyncRunner
