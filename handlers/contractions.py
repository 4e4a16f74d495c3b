"""English contractions and what they stand for."""

from __future__ import annotations

import re

_ENDINGS = {
    "'d": "would",
    "'d've": "would have",
    "'ll": "will",
    "'ll've": "will have",
    "'m": "am",
    "'re": "are",
    "'s": "is",
    "'ve": "have",
}
_WOULD_WILL = ("'d", "'d've", "'ll", "'ll've")
_SUBJECTS = {
    "i": (*_WOULD_WILL, "'m", "'ve"),
    "you": (*_WOULD_WILL, "'re", "'ve"),
    "he": (*_WOULD_WILL, "'s"),
    "she": (*_WOULD_WILL, "'s"),
    "it": (*_WOULD_WILL, "'s"),
    "we": (*_WOULD_WILL, "'re", "'ve"),
    "they": (*_WOULD_WILL, "'re", "'ve"),
    "that": ("'d", "'d've", "'s"),
    "there": ("'d", "'d've", "'s"),
    "what": ("'ll", "'ll've", "'re", "'s", "'ve"),
    "who": ("'ll", "'ll've", "'s", "'ve"),
    "when": ("'s", "'ve"),
    "where": ("'s", "'ve"),
    "why": ("'s", "'ve"),
    "how": ("'ll", "'s"),
    "so": ("'s", "'ve"),
    "to": ("'ve",),
    "will": ("'ve",),
    "could": ("'ve",),
    "might": ("'ve",),
    "must": ("'ve",),
    "should": ("'ve",),
    "would": ("'ve",),
}
_NEGATED_WITH_HAVE = ("could", "had", "might", "must", "need", "ought", "should", "would")
_NEGATED = (*_NEGATED_WITH_HAVE, "are", "did", "do", "does", "has", "have", "is", "was", "were")
_IRREGULAR = {
    "ain't": "is not",
    "can't": "cannot",
    "can't've": "cannot have",
    "'cause": "because",
    "how'd": "how did",
    "how'd'y": "how do you",
    "let's": "let us",
    "ma'am": "madam",
    "mayn't": "may not",
    "o'clock": "of the clock",
    "shan't": "shall not",
    "sha'n't": "shall not",
    "shan't've": "shall not have",
    "where'd": "where did",
    "won't": "will not",
    "won't've": "will not have",
    "y'all": "you all",
    "y'all'd": "you all would",
    "y'all'd've": "you all would have",
    "y'all're": "you all are",
    "y'all've": "you all have",
}

CONTRACTION_MAP: dict[str, str] = {
    **{word + end: f"{word} {_ENDINGS[end]}" for word, ends in _SUBJECTS.items() for end in ends},
    **{f"{verb}n't": f"{verb} not" for verb in _NEGATED},
    **{f"{verb}n't've": f"{verb} not have" for verb in _NEGATED_WITH_HAVE},
    **_IRREGULAR,
}

# Longest first: "can't've" begins with "can't". ASCII, so that nothing but these letters in either case is found.
_PATTERN = re.compile("|".join(sorted(CONTRACTION_MAP, key=len, reverse=True)), re.IGNORECASE | re.ASCII)


def expand_contractions(text: str) -> str:
    """Writes contractions out, wherever they stand, and drops all other apostrophes; a capital stays one."""
    return _PATTERN.sub(_expanded, text).replace("'", "")


def _expanded(match: re.Match[str]) -> str:
    found = match[0]
    words = CONTRACTION_MAP[found.lower()]
    return words.capitalize() if found[0].isupper() else words
