"""What a TorchServe user has before packing, the command that packs it, and the pictures and sounds for requests."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import nn
from transformers import AutoTokenizer

from archiver.cli import main as model_archiver

ROWS = Path(__file__).parent / "rows"
JSON = {"Content-Type": "application/json"}
TEXT = {"Content-Type": "text/plain"}

_SUFFIXES = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}


class Workshop:
    """Makes files in `inputs` and packs archives into `store`."""

    def __init__(self, inputs: Path, store: Path) -> None:
        self.inputs = inputs
        self.store = store

    def file(self, name: str, content: Any) -> Path:
        """A file with text, bytes, or the JSON of anything else."""
        path = self.inputs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str | bytes):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        else:
            path.write_text(json.dumps(content))
        return path

    def weights(self, name: str, module: nn.Module) -> Path:
        """A file with the module's state dict."""
        path = self.inputs / name
        torch.save(module.state_dict(), path)
        return path

    def scripted(self, name: str, module: nn.Module) -> Path:
        """A file with the module as TorchScript."""
        path = self.inputs / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.script(module).save(str(path))  # type: ignore[no-untyped-call]
        return path

    def pack(
        self,
        name: str,
        handler: str | Path,
        config: Mapping[str, Any] | None = None,
        extra: Sequence[str | Path] = (),
        archive_format: str = "default",
        version: str = "1.0",
        **flags: str | Path,
    ) -> str:
        """Runs `model-archiver`; what to give `--models`.

        Args:
            extra: what `--extra-files` names.
            flags: more of the command's options. Texts with a slash are files of `rows`.
        """
        options = {**flags, "handler": handler}
        if extra:
            options["extra_files"] = ",".join(map(_path_of, extra))
        if config is not None:
            options["config_file"] = self.file(f"{name}-{version}/model-config.yaml", yaml.safe_dump(dict(config)))
        arguments = ["--model-name", name, "--version", version, "--archive-format", archive_format]
        arguments += ["--export-path", str(self.store)]
        for option, value in options.items():
            arguments += [f"--{option.replace('_', '-')}", _path_of(value)]
        self.store.mkdir(exist_ok=True)
        assert model_archiver(arguments) == 0, arguments
        return f"{name}={name}{_SUFFIXES[archive_format]}"


def _path_of(value: str | Path) -> str:
    return str(ROWS / value) if isinstance(value, str) and "/" in value else str(value)


def load_network(file: str, class_name: str, seed: int = 0) -> nn.Module:
    """The class of a model file of `rows`, with random weights, in evaluation mode."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, ROWS / file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(seed)
    network: nn.Module = getattr(module, class_name)()
    return network.eval()


def load_pretrained(model_class: Any, folder: Path) -> Any:
    """A model of transformers in evaluation mode."""
    return model_class.from_pretrained(folder).eval()


def load_tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def picture(shade: int, width: int = 300, height: int = 260) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", [Image.new("L", (width, height), shade), ramp, ramp.rotate(180)])


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def base64_text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def pixels(image: Image.Image) -> torch.Tensor:
    """Float [channels, height, width] from 0 to 1."""
    count = len(image.getbands())
    values = torch.tensor(list(image.tobytes()), dtype=torch.float32) / 255
    return values.reshape(image.height, image.width, count).permute(2, 0, 1)


def imagenet_pixels(image: Image.Image) -> torch.Tensor:
    """Shorter side to 256, middle of 224 x 224, ImageNet's mean and deviation taken out."""
    scale = 256 / min(image.size)
    resized = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    means, deviations = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    middle = pixels(resized.crop((left, top, left + 224, top + 224)))
    return (middle - means[:, None, None]) / deviations[:, None, None]
