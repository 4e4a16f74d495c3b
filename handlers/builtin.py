"""Handlers that are chosen by name instead of by file: name -> module and class.

Plain strings, so that the archiver can validate `--handler` without importing torch.
"""

BUILTIN_HANDLERS: dict[str, str] = {
    "base_handler": "handlers.base:BaseHandler",
    "transformer_handler": "handlers.transformer.handler:TransformerHandler",
}
