"""Continuous batching: a set of requests that the handler advances step by step, new ones joining between steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from model_server.wire.messages import Message, Predict, Started, Stop
from model_server.worker.calls import Call, Member, Worker, cancelled_answer, error_answer, log_failure
from model_server.worker.runner import BatchRunner


class ContinuousRunner:
    """Steps all live requests together until each is done.

    The frontend sends every request as a batch of its own and never more than `batch_size` at once. The handler sees a
    request's data in its first step only and keeps what it needs; `context.stopping_criteria` says after each step
    whether a result is a part of the answer or its end.

    The state here is `_live`, by batch id in the order of arrival.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._plain = BatchRunner(worker)
        self._live: dict[int, Member] = {}
        self._is_stopping = False

    def serve(self) -> None:
        """Until the frontend says stop and nothing is left to do, or is gone."""
        self._worker.inbox.listen()
        while not (self._is_stopping and not self._live):
            for message in self._new_messages():
                if message is None:
                    return
                self._receive(message)
            self._drop_cancelled()
            if self._live:
                self._step()

    def _new_messages(self) -> Iterator[Message | None]:
        if not self._live:
            yield self._worker.inbox.next()
        yield from self._worker.inbox.waiting()

    def _receive(self, message: Message) -> None:
        if isinstance(message, Stop):
            self._is_stopping = True
        elif isinstance(message, Predict):
            self._worker.outbox.send(Started(message.batch_id))
            if message.request_kind == "predict":
                self._live[message.batch_id] = Member(message.batch_id, 0, message.items[0])
            else:
                self._worker.outbox.answer(message.batch_id, self._plain.run(message))

    def _drop_cancelled(self) -> None:
        """The handler notices by the id that is missing from `context.request_ids`."""
        for member in tuple(self._live.values()):
            if self._worker.streams.is_cancelled(member.batch_id, member.index):
                self._end(member, cancelled_answer(member))

    def _step(self) -> None:
        call = Call(self._worker, list(self._live.values()))
        context = self._worker.context
        rows = call.rows()
        call.announce(context)
        try:
            outputs = call.check(self._worker.entry.handle(rows, context))
        except BaseException as error:
            # Nobody knows how far the handler got with the state that it keeps for each of them.
            log_failure(error)
            for member in call.members:
                self._end(member, error_answer(member, error))
            return
        for index, (member, output) in enumerate(zip(call.members, outputs, strict=True)):
            self._deliver(call, index, member, output)

    def _deliver(self, call: Call, index: int, member: Member, output: Any) -> None:
        member.is_known = True
        try:
            if self._goes_on(index, output):
                call.send_chunk(index, output)
            else:
                self._end(member, call.answer(index, output))
        except Exception as error:
            log_failure(error)
            self._end(member, error_answer(member, error))

    def _goes_on(self, index: int, output: Any) -> bool:
        criteria = self._worker.context.stopping_criteria
        return criteria is not None and criteria[index](output) is False

    def _end(self, member: Member, answer: Any) -> None:
        del self._live[member.batch_id]
        self._worker.outbox.answer(member.batch_id, [answer])
