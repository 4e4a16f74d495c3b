"""The keys of model-config.yaml that the server itself reads, to find those that were mistyped.

All other keys are parameters of the handler and nobody's business but its own.
"""

import difflib
from collections.abc import Iterator
from typing import Any

# `model_server.config.model_config` gives these their meaning; a test keeps the two in step.
INTEGER_KEYS = (
    "minWorkers",
    "maxWorkers",
    "batchSize",
    "maxBatchDelay",
    "responseTimeout",
    "startupTimeout",
    "explanationTimeout",
    "parallelLevel",
    "maxRetryTimeoutInSec",
    "clientTimeoutInMills",
    "jobQueueSize",
    "sequenceMaxIdleMSec",
    "sequenceTimeoutMSec",
    "maxSequenceJobQueueSize",
    "maxNumSequence",
)
FLAG_KEYS = (
    "useJobTicket",
    "continuousBatching",
    "sequenceBatching",
    "asyncCommunication",
    "useVenv",
    "retryOnWorkerDeath",
    "retryOnError",
)
TEXT_KEYS = ("deviceType", "parallelType", "batchingPolicy")
LIST_KEYS = ("deviceIds",)
KEYS = (*INTEGER_KEYS, *FLAG_KEYS, *TEXT_KEYS, *LIST_KEYS, "torchrun")

# High enough that a handler's own parameter is hardly ever suspected.
_NEAR_MISS = 0.85
# Comparing takes time, and an archive may come from anybody.
_MOST_KEYS_CHECKED = 200


def mistakes(config: dict[str, Any]) -> Iterator[str]:
    """One sentence for every key that looks mistyped and every value that the server will not take."""
    for key in list(config)[:_MOST_KEYS_CHECKED]:
        if isinstance(key, str) and key not in KEYS and (meant := _nearest(key)):
            yield f"{key:.80} goes to the handler only; did you mean {meant}?"
    for keys, type_, expected in (
        (INTEGER_KEYS, int, "a whole number"),
        (FLAG_KEYS, bool, "true or false"),
        (TEXT_KEYS, str, "text"),
        (LIST_KEYS, list, "a list"),
    ):
        for key in keys:
            value = config.get(key)
            is_flag = isinstance(value, bool)
            if value is not None and (not isinstance(value, type_) or (is_flag and type_ is int)):
                yield f"{key}: {value!r:.60} is ignored by the server; it must be {expected}."


def _nearest(key: str) -> str | None:
    bare = {_bare(known): known for known in KEYS}
    matches = difflib.get_close_matches(_bare(key), bare, n=1, cutoff=_NEAR_MISS)
    return bare[matches[0]] if matches else None


def _bare(key: str) -> str:
    return key[:100].lower().translate(str.maketrans("", "", "_-. "))
