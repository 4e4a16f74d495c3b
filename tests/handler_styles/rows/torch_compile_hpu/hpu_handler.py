import torch
from ts.torch_handler.image_classifier import ImageClassifier


class HPUClassifier(ImageClassifier):
    """Runs on an accelerator of its own where there is one."""

    def set_hpu(self):
        if hasattr(torch, "hpu"):
            self.map_location = "hpu"
            self.device = torch.device("hpu")

    def _load_pickled_model(self, model_dir, model_file, model_pt_path):
        model = super()._load_pickled_model(model_dir, model_file, model_pt_path)
        self.set_hpu()
        return model
