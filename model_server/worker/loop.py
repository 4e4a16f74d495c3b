"""The worker's life: load once, then answer batch after batch until the frontend says stop or is gone."""

from __future__ import annotations

import gc
import logging
import sys
import traceback

from model_server.wire.messages import Failure, Load, Loaded, Metrics, Predict, Started, Stop
from model_server.worker.connection import Connection
from model_server.worker.entry_point import build_context, load_entry_point
from model_server.worker.recorder import Recorder
from model_server.worker.results import is_out_of_memory
from model_server.worker.runner import BatchRunner

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_LOAD_FAILED = 3


def serve(connection: Connection) -> int:
    """Runs to the end of the worker's life and returns its exit status."""
    load = connection.receive()
    if not isinstance(load, Load):
        return EXIT_OK
    recorder = Recorder(load.model_name)
    try:
        runner = build_runner(load, recorder)
    except (Exception, SystemExit) as error:
        connection.send(describe_failure(error))
        return EXIT_LOAD_FAILED
    # What loading left behind lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    connection.send(Loaded(runner.capabilities))
    try:
        answer(connection, runner, recorder)
    except OSError:
        log.info("Frontend disconnected.")
    return EXIT_OK


def build_runner(load: Load, recorder: Recorder) -> BatchRunner:
    context = build_context(load, recorder.metrics)
    entry = load_entry_point(load.handler, load.envelope, context)
    entry.initialize(context)
    return BatchRunner(entry, context, load)


def answer(connection: Connection, runner: BatchRunner, recorder: Recorder) -> None:
    """One batch after the other; messages for streams and graphs mean nothing to a plain model."""
    while (message := connection.receive()) is not None:
        if isinstance(message, Stop):
            return
        if isinstance(message, Predict):
            connection.send(Started(message.batch_id))
            connection.send(runner.run(message))
            if samples := recorder.take():
                connection.send(Metrics(samples))


def describe_failure(error: BaseException) -> Failure:
    """The cause in one line for whoever registered the model, the traceback for the log."""
    detail = "".join(traceback.format_exception(error))
    sys.stderr.write(detail)
    message = f"{type(error).__name__}: {error}".strip()
    return Failure(507 if is_out_of_memory(error) else 500, message, detail)
