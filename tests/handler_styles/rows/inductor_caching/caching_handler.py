import os

import torch
from ts.torch_handler.image_classifier import ImageClassifier


class CompiledClassifier(ImageClassifier):
    """Workers of one model share what the compiler has written down."""

    def initialize(self, ctx):
        config = ctx.model_yaml_config["handler"]["torch_inductor_caching"]
        if config["torch_inductor_fx_graph_cache"]:
            torch._inductor.config.fx_graph_cache = True
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = config["torch_inductor_cache_dir"]
        os.makedirs(config["torch_inductor_cache_dir"], exist_ok=True)
        super().initialize(ctx)
