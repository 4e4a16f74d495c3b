"""Which texts of a batch go through the model together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

# What a forward pass costs on a processor beside its tokens, in tokens for each thread: measured with MiniLM 18 in
# float32 and 30 in bfloat16. It is reading all weights once, so it grows with a model as its tokens' cost does.
PASS_COST_TOKENS = 24


def by_length(lengths: Sequence[int], pass_cost: int) -> list[list[int]]:
    """Positions in groups of similar length, shortest first, such that all of them together cost least.

    A group costs the tokens of its texts, padded to the longest of them, and `pass_cost` tokens more.
    """
    counts = sorted(Counter(lengths).items())
    distinct = [length for length, _ in counts]
    before = [0, *accumulate(count for _, count in counts)]
    # costs[end], starts[end]: the cheapest way for the texts of the first `end` lengths, and where its last group
    # begins among them.
    costs, starts = [0], [0]
    for end, longest in enumerate(distinct, 1):
        cost, start = min((costs[at] + (before[end] - before[at]) * longest, at) for at in range(end))
        costs.append(cost + pass_cost)
        starts.append(start)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[before[start] : before[end]] for start, end in _groups(starts)]


def _groups(starts: Sequence[int]) -> list[tuple[int, int]]:
    groups, end = [], len(starts) - 1
    while end:
        groups.append((starts[end], end))
        end = starts[end]
    return groups[::-1]
