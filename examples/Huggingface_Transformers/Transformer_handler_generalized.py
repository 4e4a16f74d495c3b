"""The handler of the archives of this folder: the built-in transformer handler, as a file that can be changed."""

from __future__ import annotations

from handlers.transformer.handler import TransformerHandler


class GeneralizedTransformerHandler(TransformerHandler):
    """Override `preprocess`, `inference`, `postprocess` or `explain_handle` here.

    As it stands it does what `--handler transformer_handler` does.
    """
