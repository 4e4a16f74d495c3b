"""Settings of the transformer handler, out of `handler:` in model-config.yaml or a legacy `setup_config.json`."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from handlers.documents import read_json_object
from handlers.errors import ModelLoadError
from handlers.scalars import as_choice, as_flag, as_whole_number

MODES = ("sequence_classification", "token_classification", "question_answering", "text_generation", "embedding")
SAVE_MODES = ("pretrained", "torchscript")
OUTPUTS = ("plain", "scores")
AUTO_DTYPE = "auto"
DTYPES = (AUTO_DTYPE, "bfloat16", "float16", "float32")
HARDWARE = ("neuron", "neuronx")
METHODS = ("gausslegendre", "riemann_right", "riemann_left", "riemann_middle", "riemann_trapezoid")
MAX_STEPS = 1000
LEGACY_FILE = "setup_config.json"

# What torch and transformers call the same types.
_DTYPE_NAMES = {
    **{name: name for name in DTYPES},
    **{f"torch.{name}": name for name in DTYPES[1:]},
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float": "float32",
}

# Keys that other programs read from the same section: the download script, the base handler.
FOREIGN_KEYS = ("profile",)

Value = TypeVar("Value")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExplanationSettings:
    """How integrated gradients are computed where the request does not say.

    Attributes:
        n_steps: points of the integral, 1 to 1000.
        method: Captum's name of the quadrature.
        internal_batch_size: rows per forward pass; None chooses by length.
    """

    n_steps: int = 50
    method: str = "gausslegendre"
    internal_batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What model-config.yaml says, with defaults for what it does not.

    Attributes:
        mode: the task, one of MODES.
        model_name: hub id, used to fetch a tokenizer the archive does not hold.
        dtype: floating point type of the weights, one of DTYPES: "auto" is what the device does well; None is the
            checkpoint's own.
        pack_weights: a second copy of the weights, in the order of the processor's kernels; None is for small models.
        save_mode: "pretrained" (config.json and weights) or "torchscript" (a trace of input ids and attention mask).
        max_length: tokens a text is cut to; None is the model's own limit.
        do_lower_case: passed to the tokenizer; None leaves the tokenizer's own.
        num_labels: classes; None is what config.json says.
        captum_explanation: whether /explanations is answered.
        embedding_name: attribute of the model that has `.embeddings`; None finds the embeddings from the model.
        better_transformer: SDPA attention.
        model_parallel: spread the model over all visible GPUs.
        hardware: "neuron" or "neuronx" for traces made for those devices.
        batch_size: rows a Neuron trace was made for.
        output: "plain" answers as the original handler did; "scores" answers JSON objects.
        max_answer_length: tokens an answer may span in question answering; None is no limit.
        generation: defaults of the generation parameters, by name.
    """

    mode: str
    model_name: str | None = None
    dtype: str | None = None
    pack_weights: bool | None = None
    save_mode: str = "pretrained"
    max_length: int | None = None
    do_lower_case: bool | None = None
    num_labels: int | None = None
    captum_explanation: bool = True
    embedding_name: str | None = None
    better_transformer: bool = False
    model_parallel: bool = False
    hardware: str | None = None
    batch_size: int = 1
    output: str = "plain"
    max_answer_length: int | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    explanation: ExplanationSettings = field(default_factory=ExplanationSettings)
    generation: Mapping[str, Any] = field(default_factory=dict)


def load_settings(section: object, model_dir: Path) -> Settings:
    """Settings of an archive.

    Args:
        section: `handler:` of model-config.yaml; None when the file has none.
        model_dir: where `setup_config.json` is read from in that case, and `config.json` for a mode that is not given.

    Raises:
        ModelLoadError: names key, value and what is allowed.
    """
    source = "model-config.yaml, handler"
    if section is None and (model_dir / LEGACY_FILE).is_file():
        section, source = read_json_object(model_dir / LEGACY_FILE), LEGACY_FILE
    if not isinstance(section, Mapping | None):
        raise ModelLoadError(f"{source} must be a mapping of keys to values: found {section!r}")
    return _parse(_Section(section or {}, source), model_dir)


def _parse(section: _Section, model_dir: Path) -> Settings:
    section.warn_of_misspellings()
    return Settings(
        mode=section.choice("mode", MODES) or _inferred_mode(model_dir),
        model_name=section.text("model_name"),
        # The second is transformers' older name.
        dtype=section.dtype("dtype") or section.dtype("torch_dtype"),
        pack_weights=section.optional_flag("pack_weights"),
        save_mode=section.choice("save_mode", SAVE_MODES) or "pretrained",
        max_length=section.whole_number("max_length", 1),
        do_lower_case=section.optional_flag("do_lower_case"),
        # The original's example says 0 for the tasks that have no labels.
        num_labels=section.whole_number("num_labels", 0) or None,
        captum_explanation=section.flag("captum_explanation", default=True),
        embedding_name=section.text("embedding_name"),
        better_transformer=section.flag("BetterTransformer"),
        model_parallel=section.flag("model_parallel"),
        hardware=section.choice("hardware", HARDWARE),
        batch_size=section.whole_number("batch_size", 1) or 1,
        output=section.choice("output", OUTPUTS) or "plain",
        max_answer_length=section.whole_number("max_answer_length", 1),
        trust_remote_code=section.flag("trust_remote_code"),
        allow_pickle=section.flag("allow_pickle"),
        explanation=_parse_explanation(section.nested("explanation")),
        generation=section.nested("generation").values,
    )


def _parse_explanation(section: _Section) -> ExplanationSettings:
    defaults = ExplanationSettings()
    return ExplanationSettings(
        n_steps=section.whole_number("n_steps", 1, MAX_STEPS) or defaults.n_steps,
        method=section.choice("method", METHODS) or defaults.method,
        internal_batch_size=section.whole_number("internal_batch_size", 1),
    )


@dataclass(frozen=True, slots=True)
class _Section:
    """A mapping read key by key; absent and null are the same."""

    values: Mapping[str, Any]
    source: str

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.optional_flag(key)
        return default if value is None else value

    def optional_flag(self, key: str) -> bool | None:
        return self._read(key, as_flag)

    def whole_number(self, key: str, low: int, high: int | None = None) -> int | None:
        return self._read(key, lambda value: as_whole_number(value, low, high))

    def choice(self, key: str, allowed: Sequence[str]) -> str | None:
        return self._read(key, lambda value: as_choice(value, allowed))

    def dtype(self, key: str) -> str | None:
        return self._read(key, lambda value: _DTYPE_NAMES.get(str(value)) or as_choice(value, DTYPES))

    def text(self, key: str) -> str | None:
        return self._read(key, str)

    def nested(self, key: str) -> _Section:
        value = self.values.get(key) or {}
        if not isinstance(value, Mapping):
            raise ModelLoadError(f"{self.source}: {key}: {value!r} is not allowed; allowed: a mapping")
        return _Section(value, f"{self.source}: {key}")

    def warn_of_misspellings(self) -> None:
        known = [*_KEYS, *FOREIGN_KEYS]
        for key in self.values:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.8)
            if key not in known and near:
                log.warning("%s: %s is not a known key; did you mean %s?", self.source, key, near[0])

    def _read(self, key: str, convert: Callable[[Any], Value]) -> Value | None:
        value = self.values.get(key)
        if value is None:
            return None
        try:
            return convert(value)
        except ValueError as error:
            raise ModelLoadError(f"{self.source}: {key}: {error}") from error


_KEYS = ["BetterTransformer" if item.name == "better_transformer" else item.name for item in fields(Settings)]

# How the class names in config.json's `architectures` end.
_HEADS = {
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
    "ForCausalLM": "text_generation",
    "LMHeadModel": "text_generation",
    "Model": "embedding",
}


def _inferred_mode(model_dir: Path) -> str:
    config = read_json_object(model_dir / "config.json") if (model_dir / "config.json").is_file() else {}
    architectures = config.get("architectures") or []
    for architecture in architectures:
        for head, mode in _HEADS.items():
            if str(architecture).endswith(head):
                return mode
    if (model_dir / "modules.json").is_file():
        return "embedding"
    raise ModelLoadError(
        f"handler: mode is missing and cannot be told from config.json (architectures: {architectures}); "
        f"allowed: {', '.join(MODES)}"
    )
