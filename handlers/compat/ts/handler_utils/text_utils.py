"""`ts.handler_utils.text_utils`."""

from handlers.tokenization import get_tokenizer, ngrams_iterator

__all__ = ["get_tokenizer", "ngrams_iterator"]
