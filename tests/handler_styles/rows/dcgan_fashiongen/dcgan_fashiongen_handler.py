import os
import zipfile
from io import BytesIO

import torch
from PIL import Image
from ts.torch_handler.base_handler import BaseHandler

MODELSZIP = "models.zip"
CHECKPOINT = "DCGAN_fashionGen.pt"


class ModelHandler(BaseHandler):
    """The sources of the generator travel as a zip file beside the weights."""

    def __init__(self):
        self.initialized = False
        self.map_location = None
        self.device = None
        self.default_number_of_images = 1

    def initialize(self, context):
        properties = context.system_properties
        model_dir = properties.get("model_dir")
        gpu_id = properties.get("gpu_id")
        self.map_location = "cuda" if gpu_id is not None else "cpu"
        self.device = torch.device(f"cuda:{gpu_id}" if gpu_id is not None else "cpu")
        with zipfile.ZipFile(os.path.join(model_dir, MODELSZIP), "r") as zip_ref:
            zip_ref.extractall(model_dir)

        from models.gan import Generator

        self.dcgan_model = Generator()
        checkpoint = os.path.join(model_dir, CHECKPOINT)
        self.dcgan_model.load_state_dict(torch.load(checkpoint, map_location=self.map_location))
        self.initialized = True

    def preprocess(self, requests):
        preprocessed_data = []
        for req in requests:
            data = req.get("data") if req.get("data") is not None else req.get("body", {})
            number_of_images = data.get("number_of_images", self.default_number_of_images)
            pose = data.get("input_pose", 0)
            noise = torch.linspace(-1, 1, number_of_images * 6).reshape(number_of_images, 6) + pose
            preprocessed_data.append({"number_of_images": number_of_images, "input": noise})
        return preprocessed_data

    def inference(self, preprocessed_data, *args, **kwargs):
        input_batch = torch.cat([each["input"] for each in preprocessed_data], dim=0).to(self.device)
        with torch.no_grad():
            image_tensor = self.dcgan_model(input_batch)
        return torch.split(image_tensor, [each["number_of_images"] for each in preprocessed_data])

    def postprocess(self, output):
        return [to_jpeg(images) for images in output]


def to_jpeg(images):
    """All images in a row."""
    strip = torch.cat(list(images), dim=2)
    pixels = (strip * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()
