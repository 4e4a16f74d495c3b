"""`ts.handler_utils.hf_batch_streamer`."""

from handlers.batch_streamer import TextIteratorStreamerBatch

__all__ = ["TextIteratorStreamerBatch"]
