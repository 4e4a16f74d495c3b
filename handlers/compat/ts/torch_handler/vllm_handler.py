"""`ts.torch_handler.vllm_handler`."""

from handlers.not_yet import VllmHandler as VLLMHandler

__all__ = ["VLLMHandler"]
