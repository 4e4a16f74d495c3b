"""The scenarios that can be chosen by name."""

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.attention import AttentionScenario
from benchmarks.ceiling import Ceiling
from benchmarks.explanations import ExplanationScenario
from benchmarks.registering import RegisterScenario
from benchmarks.rule import RuleScenario
from benchmarks.scale import ConnectionsScenario, ModelsScenario
from benchmarks.scenarios import Case, LoadScenario, OpenScenario, Scenario, StartScenario
from benchmarks.servers import Deployment
from benchmarks.workers import KillScenario, ScaleScenario
from benchmarks.workloads import Workload, classification, classification_in_bfloat16, echo, payload

_CONCURRENCIES = (1, 16, 64)
_ALONE, _ARRIVAL, _SORTED = Ceiling(1), Ceiling(16), Ceiling(16, "sorted")

_ALONE_BF16, _ARRIVAL_BF16, _SORTED_BF16 = (replace(one, dtype="bfloat16") for one in (_ALONE, _ARRIVAL, _SORTED))


def _cases(workload: Workload, ceilings: Mapping[int, Ceiling] | None = None) -> list[Case]:
    return [Case(f"c {clients}", clients, workload, (ceilings or {}).get(clients)) for clients in _CONCURRENCIES]


def scenarios() -> list[Scenario]:
    """All of them, in the order in which they run."""
    return [
        LoadScenario(
            name="echo",
            title="Echo of 200 bytes, one worker",
            deployment=Deployment("echo"),
            cases=_cases(echo()),
            seconds=5,
        ),
        LoadScenario(
            name="echo-batched",
            title="Echo of 200 bytes, one worker, batch 16 / 5 ms",
            deployment=Deployment("echo", batch_size=16, max_delay_ms=5),
            cases=_cases(echo()),
            seconds=5,
        ),
        LoadScenario(
            name="minilm",
            title="MiniLM classifier, one worker, one thread",
            deployment=Deployment("minilm"),
            cases=_cases(classification(), dict.fromkeys(_CONCURRENCIES, _ALONE)),
            seconds=10,
            ceilings=[_ALONE],
        ),
        LoadScenario(
            name="minilm-batched",
            title="MiniLM classifier, one worker, one thread, batch 16 / 10 ms",
            deployment=Deployment("minilm", batch_size=16, max_delay_ms=10),
            # A lone client cannot fill batches: its ceiling is the loop over single texts.
            cases=_cases(classification(), {1: _ALONE, 16: _ARRIVAL, 64: _ARRIVAL}),
            seconds=10,
            ceilings=[_ALONE, _ARRIVAL, _SORTED],
        ),
        LoadScenario(
            name="minilm-bf16",
            title="MiniLM classifier in bfloat16, one worker, one thread, batch 16 / 10 ms",
            deployment=Deployment("minilm", batch_size=16, max_delay_ms=10, dtype="bfloat16"),
            cases=_cases(classification_in_bfloat16(), {1: _ALONE_BF16, 16: _ARRIVAL_BF16, 64: _ARRIVAL_BF16}),
            seconds=10,
            ceilings=[_ALONE_BF16, _ARRIVAL_BF16, _SORTED_BF16],
            only_this_server=True,
        ),
        ExplanationScenario(
            name="explanations",
            title="Explanations of the MiniLM classifier, one worker, one thread, batch 16 / 10 ms, 16 clients",
            deployment=Deployment("minilm", batch_size=16, max_delay_ms=10),
        ),
        AttentionScenario(
            name="attention",
            title="DistilBERT's shape, one thread: fused attention and little padding",
        ),
        LoadScenario(
            name="payload",
            title="Raw bodies, answered with their length",
            deployment=Deployment("length"),
            cases=[Case("1 MB, c 8", 8, payload(1_000_000)), Case("10 MB, c 8", 8, payload(10_000_000))],
            seconds=5,
        ),
        OpenScenario(
            name="echo-open",
            title="Echo of 200 bytes, one worker: an open loop up to saturation",
            deployment=Deployment("echo"),
            workload=echo(),
            most=12_800,
        ),
        OpenScenario(
            name="minilm-open",
            title="MiniLM classifier, one worker, one thread, batch 16 / 10 ms: an open loop up to saturation",
            deployment=Deployment("minilm", batch_size=16, max_delay_ms=10),
            workload=classification(),
            most=400,
            growth=1.25,
        ),
        StartScenario(
            name="start",
            title="MiniLM classifier: launch to first answer, memory at rest",
            deployment=Deployment("minilm"),
            workload=classification(),
        ),
        ScaleScenario(
            name="workers",
            title="MiniLM classifier: adding workers through the management API, memory at rest",
            deployment=Deployment("minilm"),
            workload=classification(),
        ),
        KillScenario(
            name="kill",
            title="MiniLM classifier, one worker: kill -9 under load",
            deployment=Deployment("minilm"),
            workload=classification(),
        ),
        ModelsScenario(),
        ConnectionsScenario(),
        RegisterScenario(),
        RuleScenario(),
    ]
