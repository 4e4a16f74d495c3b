from torch import nn


class Head(nn.Sequential):
    def __init__(self, channels, classes):
        super().__init__(nn.Conv2d(channels, classes, 1))
