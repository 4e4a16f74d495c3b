"""Asynchronous workers: `handle` is a coroutine, and any number of requests are in it at once."""

from __future__ import annotations

import asyncio
import copy
import inspect
from contextlib import suppress

from handlers.context import Context
from model_server.wire.messages import Cancel, ItemResult, Message, Predict, Started, Stop
from model_server.worker.calls import Call, Member, Worker, cancelled_answer, error_answer, log_failure
from model_server.worker.results import failed


class AsyncRunner:
    """Each request is a task of its own, with a context of its own.

    The state here is the running tasks, by batch id.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._running: dict[int, asyncio.Task[None]] = {}

    def serve(self) -> None:
        """Until the frontend says stop and every request is answered, or the frontend is gone."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[Message | None] = asyncio.Queue()

        def deliver(message: Message | None) -> None:
            with suppress(RuntimeError):  # the loop has ended, and with it this worker
                loop.call_soon_threadsafe(messages.put_nowait, message)

        self._worker.inbox.listen(deliver)
        while (message := await messages.get()) is not None:
            match message:
                case Stop():
                    await asyncio.gather(*self._running.values())
                    return
                case Predict():
                    self._start(message)
                case Cancel() if message.batch_id in self._running:
                    self._running[message.batch_id].cancel()

    def _start(self, batch: Predict) -> None:
        self._worker.outbox.send(Started(batch.batch_id))
        task = asyncio.create_task(self._run(batch), name=batch.items[0].id)
        self._running[batch.batch_id] = task
        task.add_done_callback(lambda _: self._running.pop(batch.batch_id))

    async def _run(self, batch: Predict) -> None:
        members = [Member(batch.batch_id, index, item) for index, item in enumerate(batch.items)]
        try:
            answers = await self._answer(members)
        except BaseException as error:
            answers = [self._failed(member, error) for member in members]
        self._worker.outbox.answer(batch.batch_id, answers)

    def _failed(self, member: Member, error: BaseException) -> ItemResult:
        is_cancelled = self._worker.streams.is_cancelled(member.batch_id, member.index)
        if is_cancelled and isinstance(error, asyncio.CancelledError):
            return cancelled_answer(member)
        log_failure(error)
        if isinstance(error, asyncio.CancelledError):  # by the handler or its engine: the client waits for an answer
            return failed(member.item.id, 503, "Prediction failed. The handler cancelled its own work on the request.")
        return error_answer(member, error)

    async def _answer(self, members: list[Member]) -> list[ItemResult]:
        call = Call(self._worker, members)
        context = _own_context(self._worker.context)
        call.announce(context)
        outputs = self._worker.entry.handle(call.rows(), context)
        return call.answers(await outputs if inspect.isawaitable(outputs) else outputs)


def _own_context(context: Context) -> Context:
    """What is said about one request must not reach another; what the handler keeps there, all share."""
    own = copy.copy(context)
    own.metrics = copy.copy(context.metrics)
    return own
