"""`MicroBatching`: the steps of a handler run side by side, each on another slice of the batch.

class MyHandler(BaseHandler):
    def __init__(self):
        super().__init__()
        self.handle = MicroBatching(self, micro_batch_size=4, parallelism={"preprocess": 2})
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

from handlers.context import Context
from handlers.profiling import is_profiling_requested

STEPS = ("preprocess", "inference", "postprocess")


class MicroBatching:
    """A replacement for `handle` that cuts the batch into slices and pipes them through the three steps.

    Each step has threads of its own, so one slice is prepared while another is in the model. Explanations, describe
    and profiling run on the whole batch. The state here is one thread pool per step; only `parallelism` and `shutdown`
    change it, between batches.

    Args:
        parent_handler: a `BaseHandler`; its three steps are called from several threads.
        micro_batch_size: the most requests in one slice.
        parallelism: step to number of threads; 1 for those left out.
    """

    def __init__(
        self, parent_handler: Any, micro_batch_size: int = 1, parallelism: Mapping[str, int] | None = None
    ) -> None:
        self._handler = parent_handler
        self._current = threading.local()
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._parallelism: dict[str, int] = {}
        self.micro_batch_size = micro_batch_size
        self.parallelism = {**dict.fromkeys(STEPS, 1), **(parallelism or {})}

    @property
    def micro_batch_size(self) -> int:
        return self._micro_batch_size

    @micro_batch_size.setter
    def micro_batch_size(self, size: int) -> None:
        self._micro_batch_size = _positive("micro_batch_size", size)

    @property
    def parallelism(self) -> dict[str, int]:
        """Threads per step. Steps that are left out when it is set keep theirs.

        Raises:
            ValueError: an unknown step, or a number below 1.
        """
        return dict(self._parallelism)

    @parallelism.setter
    def parallelism(self, threads: dict[str, int]) -> None:
        for step, count in threads.items():
            if step not in STEPS:
                raise ValueError(f"parallelism: {step!r} is no step of a handler; there are {', '.join(STEPS)}")
            _positive(f"parallelism of {step}", count)
        for step, count in threads.items():
            self._scale(step, count)

    def get_micro_batch_idx(self) -> int:
        """Within a step: the number of the slice that this thread works on, from 0."""
        index: int = self._current.index
        return index

    def shutdown(self) -> None:
        """Ends the threads; no batch can be handled afterwards."""
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)

    def __call__(self, data: list[Any], context: Context) -> list[Any]:
        """Answers in the order of the requests.

        Raises:
            Exception: the first error of any step, at once; what has not begun of the batch is dropped.
        """
        self._handler.context = context
        if self._needs_whole_batch():
            whole: list[Any] = type(self._handler).handle(self._handler, data, context)
            return whole
        start_s = time.perf_counter()
        answers = self._run(data)
        if context.metrics is not None:
            context.metrics.add_time("HandlerTime", round((time.perf_counter() - start_s) * 1000, 2), None, "ms")
        return answers

    def _needs_whole_batch(self) -> Any:
        return is_profiling_requested() or self._handler._is_describe() or self._handler._is_explain()

    def _run(self, data: list[Any]) -> list[Any]:
        size = self.micro_batch_size
        slices = [data[start : start + size] for start in range(0, len(data), size)]
        chains = [self._submit(index, part) for index, part in enumerate(slices)]
        _wait_for([future for chain in chains for future in chain])
        answers = [list(chain[-1].result()) for chain in chains]
        for part, answered in zip(slices, answers, strict=True):
            if len(answered) != len(part):
                raise ValueError(f"postprocess gave {len(answered)} results for a micro batch of {len(part)} requests")
        return [answer for answered in answers for answer in answered]

    def _submit(self, index: int, part: list[Any]) -> list[Future[Any]]:
        """One future per step. Pools take slices in order: a thread only waits for a slice that is under way."""
        chain: list[Future[Any]] = []
        for step in STEPS:
            previous = chain[-1] if chain else None
            chain.append(self._pools[step].submit(self._work, step, index, part, previous))
        return chain

    def _work(self, step: str, index: int, part: list[Any], previous: Future[Any] | None) -> Any:
        value = part if previous is None else previous.result()
        self._current.index = index
        return getattr(self._handler, step)(value)

    def _scale(self, step: str, count: int) -> None:
        if self._parallelism.get(step) == count:
            return
        if step in self._pools:
            self._pools[step].shutdown()
        self._pools[step] = ThreadPoolExecutor(count, thread_name_prefix=f"micro-batching-{step}")
        self._parallelism[step] = count


def _wait_for(futures: list[Future[Any]]) -> None:
    """Returns when all are done; raises the first error and drops what has not begun."""
    done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
    for future in waiting:
        future.cancel()
    for future in futures:
        if future in done:
            future.result()


def _positive(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from 1")
    return value
