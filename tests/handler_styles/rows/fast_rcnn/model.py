import torch
from torch import nn


class TinyRCNN(nn.Module):
    """Finds the left and the right half of every image; the brighter, the surer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return [self.halves(image) for image in images]

    def halves(self, image):
        height, width = image.shape[1:]
        left, right = image[:, :, : width // 2], image[:, :, width // 2 :]
        boxes = [[0, 0, width // 2, height], [width // 2, 0, width, height]]
        return {
            "boxes": torch.tensor(boxes, dtype=torch.float32),
            "labels": torch.tensor([1, 3]),
            "scores": torch.stack([left.mean(), right.mean()]) * self.scale,
        }
