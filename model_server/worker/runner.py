"""The plain mode: one batch after the other, on the worker's main thread."""

from __future__ import annotations

import logging
import time

from handlers.errors import RequestCancelled
from model_server.wire.frames import WireError
from model_server.wire.messages import CallResult, Cancel, Credit, ItemResult, Predict, Stop
from model_server.worker.calls import Call, Member, Worker, error_answer, log_failure

log = logging.getLogger(__name__)


class BatchRunner:
    """Runs whole batches; an error in one request of a batch stays with that one."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def serve(self) -> None:
        """Until the frontend says stop or is gone."""
        while (message := self._worker.inbox.next()) is not None:
            if isinstance(message, Stop):
                return
            if isinstance(message, Predict):
                self._answer(message)
            elif not isinstance(message, (Cancel, Credit, CallResult)):
                # A handler may have patched what this stands on: another worker is better than one that hears nothing.
                raise WireError(f"unexpected {type(message).__name__}")
            del message  # large bodies would live on until the next request comes

    def _answer(self, batch: Predict) -> None:
        begun_s = time.monotonic()
        answers = self.run(batch)
        self._worker.outbox.answer(batch.batch_id, answers, time.monotonic() - begun_s)
        for item in batch.items:
            item.parts.clear()  # the context still knows these requests

    def run(self, batch: Predict) -> list[ItemResult]:
        """Answers to every request of the batch, in its order."""
        members = [Member(batch.batch_id, index, item) for index, item in enumerate(batch.items)]
        is_last = len(members) == 1 or not self._worker.load.retry_on_error
        try:
            return self._call(members, is_last=is_last)
        except BaseException as error:
            log_failure(error)
            failure = error
        if is_last:
            return [error_answer(member, failure) for member in members]
        log.info("Running the %d requests of the failed batch one by one.", len(members))
        return [self._call_alone(member, failure) for member in members]

    def _call_alone(self, member: Member, failure: BaseException) -> ItemResult:
        if self._worker.streams.has_begun(member.batch_id, member.index) or isinstance(failure, RequestCancelled):
            return error_answer(member, failure)  # what its client has of the answer cannot be taken back
        try:
            return self._call([member], is_last=True)[0]
        except BaseException as error:
            log_failure(error)
            return error_answer(member, error)

    def _call(self, members: list[Member], *, is_last: bool) -> list[ItemResult]:
        call = Call(self._worker, members)
        rows = call.rows(is_last=is_last)
        call.announce(self._worker.context)
        return call.answers(self._worker.entry.handle(rows, self._worker.context))
