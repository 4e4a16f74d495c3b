"""Handlers that are chosen by name instead of by file: name -> module and class.

Plain strings, so that the archiver can validate `--handler` without importing torch.
"""

BUILTIN_HANDLERS: dict[str, str] = {
    "base_handler": "handlers.base:BaseHandler",
    "image_classifier": "handlers.image_classifier:ImageClassifier",
    "image_segmenter": "handlers.image_segmenter:ImageSegmenter",
    "object_detector": "handlers.object_detector:ObjectDetector",
    "dali_image_classifier": "handlers.not_yet:DaliImageClassifier",
    "vllm_handler": "handlers.not_yet:VllmHandler",
    "trt_llm_handler": "handlers.not_yet:TrtLlmHandler",
    "text_classifier": "handlers.text_classifier:TextClassifier",
    "transformer_handler": "handlers.transformer.handler:TransformerHandler",
}

# Chosen with `handler=` at registration or `default_service_handler` only: to the archiver these words are files.
REGISTERED_HANDLERS: dict[str, str] = {
    "dali_handler": "handlers.not_yet:DaliHandler",
    "text_handler": "handlers.text:TextHandler",
    "vision_handler": "handlers.vision:VisionHandler",
}
