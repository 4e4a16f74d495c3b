"""Texts to tokens and to n-grams, as torchtext's `basic_english` tokenizer and its n-gram iterator do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

# Punctuation becomes a token of its own, or goes.
_SEPARATED = {**{mark: f" {mark} " for mark in "'.,()!?"}, '"': "", ";": " ", ":": " "}
_SEPARATE = str.maketrans(_SEPARATED)


def get_tokenizer(tokenizer: str | None, language: str = "en") -> Callable[[str], list[str]]:
    """A function from text to tokens: None splits at whitespace; "basic_english" lower-cases and parts punctuation.

    Raises:
        ValueError: any other name, or basic_english in another language than "en".
    """
    if tokenizer is None:
        return str.split
    if tokenizer != "basic_english":
        raise ValueError(f"tokenizer {tokenizer!r} is not known; known: None, 'basic_english'")
    if language != "en":
        raise ValueError(f"basic_english is for the language 'en' only, not for {language!r}")
    return _basic_english


def ngrams_iterator(token_list: Sequence[str], ngrams: int) -> Iterator[str]:
    """The tokens, then all neighbouring pairs joined by a blank, then triples, up to `ngrams` tokens."""
    yield from token_list
    for size in range(2, ngrams + 1):
        for start in range(len(token_list) - size + 1):
            yield " ".join(token_list[start : start + size])


def _basic_english(text: str) -> list[str]:
    return text.lower().replace("<br />", " ").translate(_SEPARATE).split()
