"""TorchServe and our server, running side by side with the same archives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from comparison import Case, check
from servers import Server, together
from torchserve_peer import TorchServe
from wire_exchange import Address, Answer, Request, send

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where one of the servers listens. `folder` is for what a test and its handlers tell each other by files."""

    inference: Address
    management: Address
    folder: Path
    grpc_inference: str = ""
    grpc_management: str = ""

    def infer(self, request: Request) -> Answer:
        return send(self.inference, request)

    def manage(self, request: Request) -> Answer:
        return send(self.management, request)


@dataclass(frozen=True, slots=True)
class Pair:
    theirs: Endpoints
    ours: Endpoints
    model_store: Path

    def both(self, ask: Callable[[Endpoints], _T]) -> tuple[_T, _T]:
        """What TorchServe and ours make of the same; both at the same time."""
        theirs, ours = together(lambda: ask(self.theirs), lambda: ask(self.ours))
        return theirs, ours

    def check_inference(self, case: Case) -> None:
        check(*self.both(lambda server: server.infer(case.request)), case.differs)

    def check_management(self, case: Case) -> None:
        check(*self.both(lambda server: server.manage(case.request)), case.differs)

    def check_each(self, ask: Callable[[Endpoints], Sequence[Answer]]) -> None:
        """For several requests: their answers are compared one by one."""
        theirs, ours = self.both(ask)
        assert len(theirs) == len(ours)
        for their_answer, our_answer in zip(theirs, ours, strict=True):
            check(their_answer, our_answer)


@contextmanager
def side_by_side(
    folder: Path,
    store: Path,
    models: Sequence[str],
    config: Mapping[str, object],
    *,
    tokens: bool = False,
    model_api: bool = True,
) -> Iterator[Pair]:
    """Both servers with the models of a store; they end, proven, with the context."""
    config = {"default_workers_per_model": 1, **config}
    theirs = TorchServe(folder / "theirs", store, models, config, tokens, model_api)
    args = ("--enable-model-api",) if model_api else ()
    ours = Server(folder / "ours", store, models, config, args, tokens=tokens)
    with ExitStack() as running:
        running.callback(theirs.stop)
        running.callback(ours.stop)
        together(theirs.start, ours.start)
        yield Pair(
            Endpoints(
                theirs.inference,
                theirs.management,
                theirs.folder,
                str(theirs.grpc_inference),
                str(theirs.grpc_management),
            ),
            Endpoints(
                _address(ours.inference),
                _address(ours.management),
                ours.folder,
                str(ours.grpc_inference),
                str(ours.grpc_management),
            ),
            store,
        )


def _address(url: str) -> Address:
    host, _, port = url.removeprefix("http://").partition(":")
    return Address(host, int(port))
