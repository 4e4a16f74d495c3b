from abc import ABC

import mii
from ts.torch_handler.base_handler import BaseHandler


class DeepSpeedMIIHandler(BaseHandler, ABC):
    def initialize(self, ctx):
        self.pipe = mii.pipeline(ctx.model_yaml_config["handler"]["model_name"])
        self.initialized = True
