"""How a peer is started, found ready, and asked."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.assets import Assets
from benchmarks.errors import BenchmarkError
from benchmarks.peers.environments import peer_python
from benchmarks.procs import QUIET_ENVIRONMENT
from benchmarks.servers import Deployment, Launch, Request, RunningServer, free_ports, launched
from benchmarks.workloads import Answer, Input, examples_of, is_right

APPS = Path(__file__).parent / "apps"
WHO = "__pid__"

_REPOSITORY = Path(__file__).parents[2]
_READY_DEADLINE_S = 120
_POLL_S = 0.02
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Site:
    """One start of a peer: its interpreter, a folder of its own, and a port with four free ones behind it."""

    python: Path
    folder: Path
    ports: Sequence[int]
    deployment: Deployment

    @property
    def port(self) -> int:
        return self.ports[0]

    def program(self, name: str) -> str:
        """A command that one of its packages has installed."""
        return str(self.python.with_name(name))


@dataclass(frozen=True, slots=True)
class Language:
    """A peer's requests, and what an answer's JSON holds."""

    encode: Callable[[Input, Deployment], Request]
    decode: Callable[[Any, Deployment], Answer]


def _plain_request(question: Input, _: Deployment) -> Request:
    if isinstance(question, bytes):
        return Request(question, "application/octet-stream")
    return Request(json.dumps({"text": question}).encode(), _JSON)


# `{"text": …}` or a raw body, answered with `{"answer": …}`.
PLAIN_JSON = Language(_plain_request, lambda document, _: document["answer"])


@dataclass(frozen=True, slots=True)
class Peer:
    """A kind of server.

    Attributes:
        packages: what pip installs for it.
        command: starts it.
        path: where predictions are posted to.
        prepare: makes files in its folder before it is launched.
        environment: more variables.
    """

    name: str
    packages: Sequence[str]
    command: Callable[[Site], Sequence[str]]
    path: str = "/predict"
    language: Language = PLAIN_JSON
    prepare: Callable[[Site], None] = lambda site: None
    environment: Callable[[Site], Mapping[str, str]] = lambda site: {}

    @contextmanager
    def running(self, deployment: Deployment, assets: Assets) -> Iterator[RunningServer]:
        python = peer_python(self.name.partition(" ")[0], self.packages)
        with tempfile.TemporaryDirectory(dir=assets.folder, ignore_cleanup_errors=True) as folder:
            site = Site(python, Path(folder), free_ports(5), deployment)
            (site.folder / "tmp").mkdir()
            self.prepare(site)
            environment = {**environment_of(site, assets), **self.environment(site)}
            with launched(self.command(site), environment, site.folder) as launch:
                yield self._wait_ready(launch, site, assets)

    def _wait_ready(self, launch: Launch, site: Site, assets: Assets) -> RunningServer:
        deployment = site.deployment
        server = RunningServer(
            url=f"http://127.0.0.1:{site.port}{self.path}",
            tag=launch.tag,
            launched_s=launch.launched_s,
            worker_pids=frozenset(),
            encode=lambda question: self.language.encode(question, deployment),
            decode=lambda body: self.language.decode(json.loads(body), deployment),
        )
        example = examples_of(deployment.model, assets)[0]
        deadline_s = time.monotonic() + _READY_DEADLINE_S
        while not _answers(server, example.input, example.expected):
            if launch.process.poll() is not None:
                raise launch.failure(f"{self.name} ended while it was starting.")
            if time.monotonic() > deadline_s:
                raise launch.failure(f"{self.name} gave no right answer within {_READY_DEADLINE_S} s.")
            time.sleep(_POLL_S)
        who = server.ask(WHO.encode() if deployment.model == "length" else WHO)
        if not isinstance(who, int):
            raise BenchmarkError(f"{self.name} does not say which process runs its model: {who!r}")
        return server.with_workers(frozenset({who}))


def environment_of(site: Site, assets: Assets) -> dict[str, str]:
    """What `work` reads, and what keeps a process in its own folder and to its threads."""
    deployment = site.deployment
    minilm = {"BENCHMARK_MINILM": str(assets.minilm)} if deployment.model == "minilm" else {}
    return {
        **QUIET_ENVIRONMENT,
        **minilm,
        "BENCHMARK_MODEL": deployment.model,
        "BENCHMARK_BATCH_SIZE": str(deployment.batch_size),
        "BENCHMARK_MAX_DELAY_MS": str(deployment.max_delay_ms),
        "BENCHMARK_PORT": str(site.port),
        "OMP_NUM_THREADS": str(deployment.threads),
        "PYTHONPATH": os.pathsep.join([str(_REPOSITORY), str(APPS)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(site.folder / "tmp"),
        "PATH": f"{site.python.parent}{os.pathsep}{os.environ['PATH']}",
    }


def _answers(server: RunningServer, question: Input, expected: Answer) -> bool:
    try:
        return is_right(server.ask(question), expected)
    except BenchmarkError:
        return False
