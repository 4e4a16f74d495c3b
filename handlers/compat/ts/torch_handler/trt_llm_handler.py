"""`ts.torch_handler.trt_llm_handler`."""

from handlers.not_yet import TrtLlmHandler as TRTLLMHandler

__all__ = ["TRTLLMHandler"]
