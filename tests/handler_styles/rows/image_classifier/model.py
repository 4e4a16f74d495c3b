import torch
from torch import nn


class TinyImageNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 8, 7, stride=16)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(8, 6)

    def forward(self, images):
        pooled = torch.tanh(self.features(images)).mean((2, 3))
        return self.classifier(self.dropout(pooled)) * 20
