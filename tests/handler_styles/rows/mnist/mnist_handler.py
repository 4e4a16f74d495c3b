import torch
from torch.profiler import ProfilerActivity
from ts.torch_handler.image_classifier import ImageClassifier


def to_normalized_tensor(image):
    values = torch.tensor(list(image.tobytes()), dtype=torch.float32) / 255
    return (values.reshape(1, image.height, image.width) - 0.1307) / 0.3081


class MNISTDigitClassifier(ImageClassifier):
    """Answers with the digit itself."""

    image_processing = staticmethod(to_normalized_tensor)

    def __init__(self):
        super(MNISTDigitClassifier, self).__init__()  # noqa: UP008
        self.profiler_args = {
            "activities": [ProfilerActivity.CPU],
            "record_shapes": True,
        }

    def postprocess(self, data):
        return data.argmax(1).flatten().tolist()
