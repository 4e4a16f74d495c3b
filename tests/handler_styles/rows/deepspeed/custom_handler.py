import logging
from abc import ABC

from transformers import AutoModelForCausalLM
from ts.context import Context
from ts.handler_utils.distributed.deepspeed import get_ds_engine
from ts.torch_handler.distributed.base_deepspeed_handler import BaseDeepSpeedHandler

logger = logging.getLogger(__name__)


class TransformersSeqClassifierHandler(BaseDeepSpeedHandler, ABC):
    def initialize(self, ctx: Context):
        super().initialize(ctx)
        model = AutoModelForCausalLM.from_pretrained(ctx.system_properties["model_dir"])
        ds_engine = get_ds_engine(model, ctx)
        self.model = ds_engine.module
        self.initialized = True
