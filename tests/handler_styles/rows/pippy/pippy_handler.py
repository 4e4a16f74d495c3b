import logging
from abc import ABC

import torch
from transformers import AutoModelForCausalLM
from ts.handler_utils.distributed.pt_pippy import get_pipeline_driver
from ts.torch_handler.distributed.base_pippy_handler import BasePippyHandler

logger = logging.getLogger(__name__)


class TransformersSeqClassifierHandler(BasePippyHandler, ABC):
    def __init__(self):
        super().__init__()
        self.initialized = False

    def initialize(self, ctx):
        super().initialize(ctx)
        torch.manual_seed(ctx.model_yaml_config["handler"]["manual_seed"])
        model = AutoModelForCausalLM.from_pretrained(ctx.system_properties["model_dir"])
        self.model = get_pipeline_driver(model, self.world_size, ctx)
        self.initialized = True
