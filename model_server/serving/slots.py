"""The queue of models that serve several requests at once without batches: continuous batching and async workers."""

from __future__ import annotations

from model_server.serving.batching import BatchRule
from model_server.serving.jobs import Job
from model_server.serving.queue import JobQueue, Taker
from model_server.wire.messages import RequestKind


class SlotQueue(JobQueue):
    """Gives each worker up to `slots` jobs, each by itself and as soon as it comes.

    A worker of such a model takes new jobs while it works on others, so there is nothing to wait for.
    """

    def __init__(self, capacity: int, rules: dict[RequestKind, BatchRule], slots: int) -> None:
        super().__init__(capacity, rules)
        self._slots = slots

    @property
    def has_free_worker(self) -> bool:
        return not len(self) and any(taker.outstanding < self._slots for taker in self._takers)

    def _assign(self) -> None:
        for lane in tuple(self._turn):
            while lane.jobs and (taker := self._roomiest(lane.jobs[0])) is not None:
                self._give(taker, lane, lane.take(1))

    def _roomiest(self, job: Job) -> Taker | None:
        """The worker with the fewest jobs that has room for this one."""
        room = 1 if job.alone else self._slots
        willing = [taker for taker in self._takers if taker.outstanding < room and not taker.is_exclusive]
        return min(willing, key=lambda taker: taker.outstanding, default=None)
