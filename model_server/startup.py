"""The frontend's first moments: log, event loop, and the template, before anything else is imported.

Importing torch takes the template seconds, importing HTTP, gRPC and metrics the frontend some tenths of one. The second
happens while the first is under way, so that the first prediction is not later for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import uvloop

from model_server.config.server import ServerConfig
from model_server.logs.server_logs import ServerLogs
from model_server.serving.children import adopt_orphans
from model_server.serving.placement import Gpu, detect_gpus
from model_server.serving.process import inherited_environment
from model_server.serving.template import Template, TemplateLost
from model_server.status import StatusReport

log = logging.getLogger(__name__)

# What the first models import says enough about the others.
_MOST_ARCHIVES = 16


def run(config: ServerConfig, warnings: Sequence[str], status_fd: int | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status of the process."""
    logs = ServerLogs.open(config.logs)
    for warning in warnings:
        log.warning("%s", warning)
    report = StatusReport(status_fd)
    try:
        return uvloop.run(_serve(config, report, logs))
    finally:
        report.close()
        logs.close()


async def _serve(config: ServerConfig, report: StatusReport, logs: ServerLogs) -> int:
    found = detect_gpus(os.environ)
    gpus = found[: config.usable_gpus(len(found))]
    template = _new_template(config, gpus)
    try:
        if template is not None and (config.load_models or config.model_snapshot):
            with contextlib.suppress(TemplateLost):  # said when a worker is wanted
                await template.warm()
        from model_server.server import Server

        return await Server(config, report, logs, gpus, template).serve()
    finally:
        if template is not None:
            await template.close()


def _new_template(config: ServerConfig, gpus: Sequence[Gpu]) -> Template | None:
    """None where workers have to be fresh processes: a CUDA that was looked at does not work in a copy."""
    if gpus or not config.fork_workers or not adopt_orphans():
        return None
    archives = list(islice(_startup_archives(config), _MOST_ARCHIVES))
    return Template(config.python, inherited_environment(config), archives)


def _startup_archives(config: ServerConfig) -> Iterator[Path]:
    """Where the first models probably are. The registry looks more closely; here a wrong guess costs nothing."""
    with contextlib.suppress(OSError, ValueError):
        if config.model_snapshot is not None:
            names = [entry.source for entry in config.model_snapshot]
        elif config.load_models == "all":
            names = [entry.name for store in config.model_stores for entry in store.iterdir()]
        else:
            names = [model.url for model in config.load_models]
        for name in names:
            candidates = [*(store / Path(name).name for store in config.model_stores), Path(name)]
            yield from [path.resolve() for path in candidates if path.exists()][:1]
