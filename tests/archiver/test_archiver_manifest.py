"""Reading and writing MAR-INF/MANIFEST.json, old and hand-written ones included."""

import json
from pathlib import Path

import pytest

from archiver.errors import InvalidManifest
from archiver.manifest import Manifest, ModelEntry, load

MODEL = {"modelName": "bert", "handler": "h.py"}


def manifest(**changes) -> bytes:
    return json.dumps({"runtime": "python", "model": MODEL, **changes}).encode()


def test_a_full_manifest():
    model = {
        "modelName": "bert",
        "serializedFile": "model.pt",
        "handler": "h:entry",
        "modelFile": "net.py",
        "modelVersion": "2.1",
        "extensions": {"any": 1},
        "requirementsFile": "requirements.txt",
        "configFile": "conf/model-config.yaml",
        "envelope": "body",
    }
    raw = {"createdOn": "27/07/2023 10:00:00", "runtime": "LSP", "model": model, "archiverVersion": "0.12.0"}
    read = Manifest.from_json(json.dumps(raw).encode())
    assert (read.created_on, read.runtime, read.archiver_version) == ("27/07/2023 10:00:00", "LSP", "0.12.0")
    assert read.model == ModelEntry(
        model_name="bert",
        serialized_file="model.pt",
        handler="h:entry",
        model_file="net.py",
        model_version="2.1",
        extensions={"any": 1},
        requirements_file="requirements.txt",
        config_file="conf/model-config.yaml",
        envelope="body",
    )
    assert read.raw == raw
    assert list(json.loads(read.to_json())["model"]) == [
        *("modelName", "serializedFile", "handler", "modelFile", "modelVersion", "extensions"),
        *("requirementsFile", "configFile", "envelope"),
    ]


def test_an_old_manifest_with_keys_of_other_times():
    model = {**MODEL, "version": "7", "description": "d", "sourceVocab": "vocab.pt"}
    raw = {"specificationVersion": "1.0", "implementationVersion": "1.0", "modelServerVersion": "1.0"}
    raw |= {"description": "noop", "runtime": "python3", "model": model}
    read = Manifest.from_json(json.dumps(raw).encode())
    assert read.model.model_version == "1.0"
    assert read.created_on is None and read.archiver_version is None
    assert read.raw == raw


@pytest.mark.parametrize("version", [{}, {"modelVersion": None}, {"modelVersion": ""}])
def test_a_missing_version_is_1_0(version):
    assert Manifest.from_json(manifest(model={**MODEL, **version})).model.model_version == "1.0"


def test_a_byte_order_mark_is_skipped():
    assert Manifest.from_json(b"\xef\xbb\xbf" + manifest()).model.model_name == "bert"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b"3",
        b'"text"',
        b'{"model": {"modelName": "a"}, "model": {}}',
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b"\xff\xfe\xfa",
        b" " * (1 << 20) + b"{}",
    ],
    ids=lambda data: data[:20],
)
def test_what_cannot_be_parsed(data):
    with pytest.raises(InvalidManifest, match=r"^Failed to parse signature\.json\. MAR-INF/MANIFEST\.json cannot"):
        Manifest.from_json(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "Missing Model entry in manifest file. "),
        ({"model": {}}, "Model name is not defined. "),
        ({"model": {"modelName": None}}, "Model name is not defined. "),
        ({"model": {"modelName": ""}}, "Model name is not defined. "),
        ({"runtime": None}, "Runtime is not defined or invalid. "),
        ({"runtime": "java"}, "Runtime is not defined or invalid. "),
        ({"runtime": ["python"]}, "Runtime is not defined or invalid. "),
    ],
)
def test_messages_begin_with_torchserves_text(changes, message):
    with pytest.raises(InvalidManifest) as raised:
        Manifest.from_json(manifest(**changes))
    assert str(raised.value).startswith(message)
    assert len(str(raised.value)) > len(message)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model": []}, ["model is [], an array"]),
        ({"createdOn": 5}, ["createdOn is 5, a number"]),
        ({"model": {**MODEL, "modelName": 7}}, ["model.modelName is 7, a number"]),
        ({"model": {**MODEL, "modelVersion": 1.5}}, ["model.modelVersion is 1.5, a number"]),
        ({"model": {**MODEL, "handler": {"a": 1}}}, ["model.handler is", "an object"]),
        ({"model": {**MODEL, "serializedFile": True}}, ["model.serializedFile is True, a boolean"]),
        ({"model": {**MODEL, "envelope": []}}, ["model.envelope is [], an array"]),
    ],
)
def test_wrong_types_name_key_and_value(changes, parts):
    with pytest.raises(InvalidManifest) as raised:
        Manifest.from_json(manifest(**changes))
    assert all(part in str(raised.value) for part in parts), raised.value


@pytest.mark.parametrize("key", ["serializedFile", "modelFile", "requirementsFile", "configFile", "handler"])
@pytest.mark.parametrize("path", ["../x.py", "a/../../x.py", "/etc/passwd", "C:\\x.py", "a\\b", "a\0b", "../x.py:f"])
def test_paths_that_leave_the_archive_name_key_and_value(key, path):
    with pytest.raises(InvalidManifest) as raised:
        Manifest.from_json(manifest(model={**MODEL, key: path}))
    assert f"model.{key} is " in str(raised.value)
    assert repr(path)[1:-1].partition(":")[0] in str(raised.value)


@pytest.mark.parametrize("handler", ["a:b:c", "a:", ":f", "a:../x", "a: b"])
def test_handlers_that_mean_nothing(handler):
    with pytest.raises(InvalidManifest, match=r"model\.handler is "):
        Manifest.from_json(manifest(model={**MODEL, "handler": handler}))


def test_load(tmp_path: Path):
    assert load(tmp_path) is None
    (tmp_path / "MAR-INF").mkdir()
    assert load(tmp_path) is None
    (tmp_path / "MAR-INF" / "MANIFEST.json").write_bytes(manifest())
    assert load(tmp_path).model.model_name == "bert"
    (tmp_path / "MAR-INF" / "MANIFEST.json").write_bytes(b"{}" + b" " * (1 << 20))
    with pytest.raises(InvalidManifest, match="larger than"):
        load(tmp_path)
