"""`ts.handler_utils.distributed.deepspeed`."""

from handlers.not_yet import get_ds_engine

__all__ = ["get_ds_engine"]
