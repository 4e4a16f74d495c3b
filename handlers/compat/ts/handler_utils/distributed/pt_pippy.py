"""`ts.handler_utils.distributed.pt_pippy`."""

from handlers.not_yet import get_pipeline_driver

__all__ = ["get_pipeline_driver"]
