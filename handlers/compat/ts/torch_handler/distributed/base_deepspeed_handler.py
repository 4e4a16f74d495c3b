"""`ts.torch_handler.distributed.base_deepspeed_handler`."""

from handlers.not_yet import DeepSpeedHandler as BaseDeepSpeedHandler

__all__ = ["BaseDeepSpeedHandler"]
