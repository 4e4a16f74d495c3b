"""Continuous batching: a set of requests that the handler advances step by step, new ones joining between steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from model_server.wire.messages import ItemResult, Message, Predict, Started, Stop
from model_server.worker.calls import Call, Member, Worker, cancelled_answer, error_answer, log_failure
from model_server.worker.runner import BatchRunner


class ContinuousRunner:
    """Steps all live requests together until each is done.

    The frontend sends every request as a batch of its own and never more than `batch_size` at once. The handler sees a
    request's data in its first step only and keeps what it needs; `context.stopping_criteria` says after each step
    whether a result is a part of the answer or its end.

    Explanations and describe requests are calls of their own. Handlers take a request that they do not see any more for
    gone, so such a call waits until nothing is live, and who came after it waits for it.

    The state here is `_live`, by batch id in the order of arrival, and `_waiting`, what is not live yet.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._plain = BatchRunner(worker)
        self._live: dict[int, Member] = {}
        self._waiting: deque[Predict] = deque()
        self._is_stopping = False

    def serve(self) -> None:
        """Until the frontend says stop and nothing is left to do, or is gone."""
        self._worker.inbox.listen()
        while self._live or self._waiting or not self._is_stopping:
            for message in self._new_messages():
                if message is None:
                    return
                self._receive(message)
            self._drop_cancelled()
            self._admit()
            if self._live:
                self._step()

    def _new_messages(self) -> Iterator[Message | None]:
        if not self._live and not self._waiting:
            yield self._worker.inbox.next()
        yield from self._worker.inbox.waiting()

    def _receive(self, message: Message) -> None:
        if isinstance(message, Stop):
            self._is_stopping = True
        elif isinstance(message, Predict):
            self._waiting.append(message)

    def _drop_cancelled(self) -> None:
        """The handler notices by the id that is missing from `context.request_ids`."""
        for member in tuple(self._live.values()):
            if self._is_cancelled(member.batch_id):
                self._end(member, cancelled_answer(member))

    def _admit(self) -> None:
        while self._waiting and self._may_begin(self._waiting[0]):
            self._begin(self._waiting.popleft())

    def _may_begin(self, batch: Predict) -> bool:
        return batch.request_kind == "predict" or not self._live or self._is_cancelled(batch.batch_id)

    def _begin(self, batch: Predict) -> None:
        self._worker.outbox.send(Started(batch.batch_id))
        member = Member(batch.batch_id, 0, batch.items[0])
        if self._is_cancelled(batch.batch_id):
            self._worker.outbox.answer(batch.batch_id, [cancelled_answer(member)])
        elif batch.request_kind == "predict":
            self._live[batch.batch_id] = member
        else:
            self._worker.outbox.answer(batch.batch_id, self._plain.run(batch))

    def _is_cancelled(self, batch_id: int) -> bool:
        return self._worker.streams.is_cancelled(batch_id, 0)

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
                return
            answer = call.answer(index, output)
        except BaseException as error:
            log_failure(error)
            answer = error_answer(member, error)
        self._end(member, answer)

    def _goes_on(self, index: int, output: Any) -> bool:
        criteria = self._worker.context.stopping_criteria
        if criteria is None:
            return False
        stops = criteria[index](output)
        return stops is not None and not stops  # a bool of numpy or torch is none of Python's

    def _end(self, member: Member, answer: ItemResult) -> None:
        del self._live[member.batch_id]
        self._worker.outbox.answer(member.batch_id, [answer])
