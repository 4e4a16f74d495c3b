"""The texts that classifiers are asked about: 200 sentences of 5 to 60 words, the same ones every time."""

import math
import random

_SEED = 20
_COUNT = 200
_SHORTEST, _MEDIAN, _LONGEST = 5, 19, 60
# Spread of the logarithm of the length: half of the sentences have between 14 and 27 words.
_SPREAD = 0.5

_WORDS = (
    "the a my our this that every some no one when while after before because although and but so then still "
    "train station platform ticket journey window river bridge village mountain road garden kitchen table bread "
    "coffee letter friend neighbour teacher child doctor driver music story picture question answer evening "
    "morning winter weather rain light shadow silence laughter is was seemed became felt stayed went came saw "
    "heard found lost kept opened closed waited promised remembered forgot enjoyed missed warm cold quiet loud "
    "late early kind rude clean broken lovely awful honest strange simple difficult slowly quickly almost never "
    "always again together alone behind near under through without into from with about"
)


def sentences() -> list[str]:
    """Words in random order; lengths are log-normal around 19 words, as those of written sentences are."""
    generator = random.Random(_SEED)
    words = _WORDS.split()
    return [_sentence(generator, words) for _ in range(_COUNT)]


def _sentence(generator: random.Random, words: list[str]) -> str:
    length = round(generator.lognormvariate(math.log(_MEDIAN), _SPREAD))
    chosen = generator.choices(words, k=min(_LONGEST, max(_SHORTEST, length)))
    return f"{' '.join(chosen).capitalize()}."
