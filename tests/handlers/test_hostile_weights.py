"""Weight files that would run code, read other files or take all memory: refused with their name, and nothing happens.

Rows F12 to F15 of the matrix of faults. What is merely wrong is in test_base_handler and test_transformer_loading.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from handlers.base import BaseHandler
from handlers.errors import ModelLoadError
from handlers.testing import HandlerHarness

NETWORK = "import torch\n\nclass Network(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(2, 2)\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "network.py").write_text(NETWORK)
    return tmp_path


def load(folder: Path, weights: str, model_file: str | None = "network.py", config: Any = None) -> HandlerHarness:
    manifest = {"model": {"modelName": "m", "serializedFile": weights, "modelFile": model_file}}
    return HandlerHarness(BaseHandler, folder, config, manifest)


# --- code in pickles ---


class Calls:
    """Pickled, it is a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


GADGETS: dict[str, Callable[[str], Calls]] = {
    "posix.system": lambda canary: Calls(os.system, f"touch {canary}"),
    "exec": lambda canary: Calls(exec, f"open({canary!r}, 'w')"),
    "io.open": lambda canary: Calls(open, canary, "w"),
    "torch.serialization._open_file": lambda canary: Calls(torch.serialization._open_file, canary, "w"),
}


def zipped(content: Any) -> bytes:
    return saved(content, _use_new_zipfile_serialization=True)


def legacy(content: Any) -> bytes:
    return saved(content, _use_new_zipfile_serialization=False)


def saved(content: Any, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": content}, file, **options)
    return file.getvalue()


def tarred(content: Any) -> bytes:
    """What torch wrote before 0.1.10."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, value in (("sys_info", {}), ("storages", content), ("tensors", 0), ("pickle", content)):
            member = tarfile.TarInfo(name)
            data = pickle.dumps(value)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


CONTAINERS: list[Callable[[Any], bytes]] = [zipped, legacy, tarred, pickle.dumps]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("gadget", GADGETS)
@pytest.mark.parametrize("container", CONTAINERS, ids=lambda container: container.__name__)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize("model_file", ["network.py", None])
def test_code_in_a_pickle_does_not_run(
    folder: Path, gadget: str, container: Callable[[Any], bytes], suffix: str, model_file: str | None
) -> None:
    canary = folder / "canary"
    (folder / f"weights{suffix}").write_bytes(container(GADGETS[gadget](str(canary))))
    with pytest.raises(ModelLoadError, match=f"weights{suffix}") as caught:
        load(folder, f"weights{suffix}", model_file)
    assert not canary.exists()
    assert "weights_only` set to `False`" not in str(caught.value), "torch's own advice is to run the code"


def test_a_refused_pickle_is_told_by_what_it_calls_for(folder: Path) -> None:
    (folder / "weights.pt").write_bytes(zipped(GADGETS["posix.system"]("canary")))
    with pytest.raises(ModelLoadError, match=r"weights\.pt is not a plain state dict: it calls for posix\.system\. "):
        load(folder, "weights.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("victim", ["data.pkl", "constants.pkl"])
def test_code_in_the_pickles_of_torchscript_does_not_run(folder: Path, victim: str) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), folder / "good.pt")
    evil = pickle.dumps(GADGETS["posix.system"](str(folder / "canary")), protocol=2)
    with zipfile.ZipFile(folder / "good.pt") as good, zipfile.ZipFile(folder / "weights.pt", "w") as changed:
        for name in good.namelist():
            changed.writestr(name, evil if name.endswith(victim) else good.read(name))
    with pytest.raises(ModelLoadError, match=r"weights\.pt cannot be loaded as TorchScript"):
        load(folder, "weights.pt", None)
    assert not (folder / "canary").exists()


def test_code_in_an_exported_program_does_not_run(folder: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), folder / "good.pt2")
    with zipfile.ZipFile(folder / "good.pt2") as good, zipfile.ZipFile(folder / "weights.pt2", "w") as changed:
        for name in good.namelist():
            inputs = zipped(GADGETS["posix.system"](str(folder / "canary")))
            changed.writestr(name, inputs if name.endswith("sample_inputs/model.pt") else good.read(name))
    with pytest.raises(ModelLoadError, match=r"weights\.pt2: reading an exported program can run code"):
        load(folder, "weights.pt2", None)
    assert not (folder / "canary").exists()


# --- headers of safetensors ---

WEIGHT = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
BIAS = {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]}


def safetensors(header: Any, size: int = 24, length: int | None = None) -> bytes:
    """A file with this header (bytes: as they are) and so many bytes of data; `length`: of the header, as it claims."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + bytes(size)


def with_bias(**changes: Any) -> bytes:
    return safetensors({"weight": WEIGHT, "bias": {**BIAS, **changes}})


GOOD = safetensors({"weight": WEIGHT, "bias": BIAS})
HOSTILE = {
    "nothing": b"",
    "less than a length": GOOD[:7],
    "a header of no bytes": safetensors(b"", length=0),
    "a header longer than the file": safetensors(b"{}", length=1 << 20),
    "a header of 200 MB": safetensors(b"{}", length=200 << 20),
    "a header of 8 EiB": safetensors(b"{}", length=1 << 63),
    "a negative length": safetensors(b"{}", length=(1 << 64) - 1),
    "no JSON": safetensors(b"{'weight': 1}"),
    "no object": safetensors([WEIGHT]),
    "no UTF-8": safetensors(b'{"\xff": 1}'),
    "deep": safetensors(b'{"a":' * 100_000),
    "an unknown dtype": with_bias(dtype="F33"),
    "a number as dtype": with_bias(dtype=5),
    "overlapping": with_bias(data_offsets=[8, 16]),
    "a gap": safetensors({"weight": WEIGHT, "bias": {**BIAS, "data_offsets": [20, 28]}}, size=28),
    "backwards": with_bias(data_offsets=[24, 16]),
    "beyond the end": with_bias(data_offsets=[16, 1 << 40]),
    "before the start": with_bias(data_offsets=[-8, 0]),
    "a huge shape": with_bias(shape=[1 << 62, 1 << 62]),
    "a negative shape": with_bias(shape=[-2]),
    "a shape of another size": with_bias(shape=[3]),
    "truncated": GOOD[:-4],
    "more than it says": GOOD + bytes(4),
    "no data": GOOD[:-24],
}


def test_the_header_that_the_hostile_ones_are_made_of_is_good(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(GOOD)
    assert load(folder, "weights.safetensors").handler.initialized


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_headers_of_safetensors_are_not_believed(folder: Path, content: bytes) -> None:
    (folder / "weights.safetensors").write_bytes(content)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelLoadError, match=r"^weights\.safetensors cannot be read: \S"):
        load(folder, "weights.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 64 << 10


# --- values that are no weights ---


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({"weight": 5, "bias": torch.zeros(2)}, "of another shape: weight"),
        ({1: torch.zeros(2), (): torch.zeros(1)}, r"missing: weight, bias; unexpected: 1, \(\)"),
        ({"weight": torch.zeros(2, 2).to_sparse(), "bias": torch.zeros(2)}, '"weight"'),
        ({"weight": torch.zeros(2, 2, device="meta"), "bias": torch.zeros(2)}, '"weight"'),
    ],
    ids=["a number", "keys that are no names", "sparse", "without data"],
)
def test_odd_values_are_named(folder: Path, state: Any, named: str) -> None:
    torch.save(state, folder / "weights.pt")
    with pytest.raises(ModelLoadError, match=rf"weights\.pt does not fit Network: .*{named}"):
        load(folder, "weights.pt")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_part_of_a_file_is_named(folder: Path, part: float) -> None:
    whole = zipped(torch.zeros(2, 2))
    (folder / "weights.pt").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ModelLoadError, match=r"^weights\.pt .*\S$"):
        load(folder, "weights.pt")


def test_half_precision_is_taken_in(folder: Path) -> None:
    torch.save({"weight": torch.ones(2, 2).half(), "bias": torch.ones(2).half()}, folder / "weights.pt")
    network = load(folder, "weights.pt").handler.model
    assert network(torch.ones(1, 2)).tolist() == [[3.0, 3.0]]


# --- folders of transformers ---

MODE = "sequence_classification"
# Imported from a folder of a model, it makes the file CANARY.
CODE = """
open(CANARY, "w").close()
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer


class Evil(BertForSequenceClassification): ...
class EvilConfig(BertConfig): ...
class EvilTokenizer(BertTokenizer): ...


def generate(model, *arguments, **options):
    return model._sample(*arguments, **options)
"""
REMOTE_TOKENIZER = {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}}


@pytest.fixture
def bert(model_dirs: Callable[..., Path]) -> Path:
    return model_dirs("bert", "ForSequenceClassification", num_labels=3)


@pytest.mark.parametrize(
    ("file", "changes", "loads"),
    [
        ("config.json", {"auto_map": {"AutoModelForSequenceClassification": "evil.Evil"}}, False),
        ("config.json", {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig"}}, False),
        ("tokenizer_config.json", REMOTE_TOKENIZER, True),
        ("generation_config.json", {"custom_generate": ".", "trust_remote_code": True}, True),
    ],
)
def test_code_of_a_folder_is_not_imported(
    tmp_path: Path, bert: Path, archive: Any, serve: Any, file: str, changes: dict[str, Any], loads: bool
) -> None:
    code = CODE.replace("CANARY", repr(str(tmp_path / "canary")))
    document = json.loads((bert / file).read_text()) if (bert / file).exists() else {}
    target = archive(bert, {file: {**document, **changes}, "evil.py": code})
    (target / "custom_generate").mkdir()
    (target / "custom_generate" / "generate.py").write_text(code)
    if loads:
        assert serve(target, mode=MODE).predict("fine").startswith("LABEL_")
    else:
        with pytest.raises(ModelLoadError, match=r"config\.json has auto_map, .*trust_remote_code: true"):
            serve(target, mode=MODE)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.bin"])
def test_code_in_the_weights_of_a_transformer_does_not_run(
    tmp_path: Path, bert: Path, archive: Any, serve: Any, name: str
) -> None:
    target = archive(bert, without=("model.safetensors",))
    (target / name).write_bytes(zipped(GADGETS["posix.system"](str(tmp_path / "canary"))))
    with pytest.raises(ModelLoadError, match=f"^{name} is not a plain state dict: it calls for posix.system.*allow_pi"):
        serve(target, weights=name, mode=MODE)
    assert not (tmp_path / "canary").exists()


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ("part.safetensors", None),
        ("../part.safetensors", r"names '\.\./part\.safetensors', which is outside the archive"),
        ("/tmp/part.safetensors", r"names '/tmp/part\.safetensors', which is outside the archive"),
        ("absent.safetensors", r"names absent\.safetensors, which is not in the archive"),
        (5, "names 5, which is not in the archive"),
    ],
)
def test_an_index_names_files_of_the_archive_only(
    bert: Path, archive: Any, serve: Any, shard: Any, message: str | None
) -> None:
    target = archive(bert, without=("model.safetensors",))
    for place in (target, target.parent):
        shutil.copy(bert / "model.safetensors", place / "part.safetensors")
    length = struct.unpack("<Q", (target / "part.safetensors").read_bytes()[:8])[0]
    names = [name for name in json.loads((target / "part.safetensors").read_bytes()[8 : 8 + length]) if name[0] != "_"]
    (target / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, shard)}))
    if message is None:
        assert serve(target, weights=INDEX, mode=MODE).predict("fine") == serve(bert, mode=MODE).predict("fine")
        return
    with pytest.raises(ModelLoadError, match=rf"^model\.safetensors\.index\.json {message}"):
        serve(target, weights=INDEX, mode=MODE)


@pytest.mark.parametrize("document", ["{}", '{"weight_map": 5}', '{"weight_map": ["a"]}'])
def test_an_index_without_a_map_is_named(bert: Path, archive: Any, serve: Any, document: str) -> None:
    target = archive(bert, {INDEX: document}, without=("model.safetensors",))
    with pytest.raises(ModelLoadError, match=rf"^{INDEX} has no weight_map"):
        serve(target, weights=INDEX, mode=MODE)


@pytest.mark.parametrize("weights_of", ["distilbert", "gpt2"])
def test_weights_of_another_architecture_are_refused(
    model_dirs: Any, bert: Path, archive: Any, serve: Any, weights_of: str
) -> None:
    """F14: a model of random weights would answer, and nobody would know."""
    head = {"distilbert": "ForSequenceClassification", "gpt2": "LMHeadModel"}[weights_of]
    other = model_dirs(weights_of, head)
    target = archive(bert, without=("model.safetensors",))
    shutil.copy(other / "model.safetensors", target)
    with pytest.raises(
        ModelLoadError, match=r"a BertForSequenceClassification: missing bert\.\S+(, bert\.\S+){4} and "
    ):
        serve(target, mode=MODE)


def test_weights_with_fewer_layers_are_refused(bert: Path, archive: Any, serve: Any) -> None:
    config = json.loads((bert / "config.json").read_text())
    target = archive(bert, {"config.json": {**config, "num_hidden_layers": 3}})
    with pytest.raises(ModelLoadError, match=r"missing bert\.encoder\.layer\.2\."):
        serve(target, mode=MODE)


@pytest.mark.parametrize(
    ("key", "value"), [("num_hidden_layers", "two"), ("dtype", "float99"), ("hidden_size", -1), ("vocab_size", None)]
)
def test_values_of_config_json_that_cannot_be_are_load_errors_in_one_line(
    bert: Path, archive: Any, serve: Any, key: str, value: Any
) -> None:
    config = json.loads((bert / "config.json").read_text())
    with pytest.raises(ModelLoadError) as caught:
        serve(archive(bert, {"config.json": {**config, key: value}}), mode=MODE)
    assert "\n" not in str(caught.value)
