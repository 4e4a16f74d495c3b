"""Which texts of a batch go through the model together."""

from __future__ import annotations

import itertools
import random

import pytest

from handlers.transformer.grouping import by_length


def cost_of(groups, lengths, pass_cost):
    return sum(pass_cost + len(group) * max(lengths[at] for at in group) for group in groups)


def all_ways(positions):
    """Every way to cut a sequence into consecutive groups."""
    for cuts in itertools.product([False, True], repeat=len(positions) - 1):
        groups = [[positions[0]]]
        for position, cut in zip(positions[1:], cuts, strict=True):
            if cut:
                groups.append([])
            groups[-1].append(position)
        yield groups


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("pass_cost", [1, 24, 200])
def test_no_other_way_is_cheaper(seed, pass_cost):
    generator = random.Random(seed)
    lengths = [generator.randint(3, 80) for _ in range(9)]
    groups = by_length(lengths, pass_cost)
    assert sorted(at for group in groups for at in group) == list(range(9))
    by_size = sorted(range(9), key=lengths.__getitem__)
    cheapest = min(cost_of(way, lengths, pass_cost) for way in all_ways(by_size))
    assert cost_of(groups, lengths, pass_cost) == cheapest


def test_equal_texts_stay_together_and_very_different_ones_do_not():
    assert by_length([7, 7, 7], 1) == [[0, 1, 2]]
    assert by_length([60, 5, 60, 6], 24) == [[1, 3], [0, 2]]
    assert by_length([60, 5, 60, 6], 10_000) == [[1, 3, 0, 2]]
    assert by_length([9], 24) == [[0]]


def test_thousands_of_texts_are_no_trouble():
    lengths = [3 + at % 500 for at in range(20_000)]
    assert sorted(at for group in by_length(lengths, 24) for at in group) == list(range(20_000))
