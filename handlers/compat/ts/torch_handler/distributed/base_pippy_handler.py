"""`ts.torch_handler.distributed.base_pippy_handler`."""

from handlers.not_yet import PippyHandler as BasePippyHandler

__all__ = ["BasePippyHandler"]
