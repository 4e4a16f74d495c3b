import torch
from ts.torch_handler.image_classifier import ImageClassifier


class MNISTDigitHandler(ImageClassifier):
    """The client has decoded and normalised the images already."""

    def preprocess(self, data):
        images = []
        for row in data:
            image = row.get("data") or row.get("body")
            images.append(torch.FloatTensor(image["image"]))
        return torch.stack(images).to(self.device)

    def postprocess(self, data):
        return data.argmax(1).flatten().tolist()
