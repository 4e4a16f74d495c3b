"""`model-archiver inspect`: what it shows of every kind of archive, and when it says that one would not load."""

import io
import json
import os
import zipfile
from pathlib import Path

import pytest

from archiver.cli import main
from archiver.pack import PackRequest, pack

FILES = ["index_to_name.json", "model-config.yaml", "model.safetensors", "my_handler.py", "MAR-INF/MANIFEST.json"]


@pytest.fixture
def packed(inputs):
    def run(archive_format: str = "default", **changes) -> str:
        flags = {
            "model_name": "bert",
            "version": "1.0",
            "handler": "my_handler.py",
            "serialized_file": "model.safetensors",
            "config_file": "model-config.yaml",
            "extra_files": "extras/index_to_name.json",
        }
        return str(pack(PackRequest(**{**flags, **changes}, archive_format=archive_format)))

    return run


@pytest.fixture
def report(capsys):
    def run(path: str) -> tuple[int, dict]:
        capsys.readouterr()
        status = main(["inspect", path, "--json"])
        out, err = capsys.readouterr()
        assert err == ""
        return status, json.loads(out)

    return run


def rewritten(path: str, changes: dict[str, bytes | None]) -> str:
    """The archive with some files replaced, added, or (None) taken out."""
    with zipfile.ZipFile(path) as old:
        contents: dict[str, bytes | None] = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile("changed.mar", "w") as new:
        for name, content in {**contents, **changes}.items():
            if content is not None:
                new.writestr(name, content)
    return "changed.mar"


@pytest.mark.parametrize(
    ("archive_format", "kind", "prefix"),
    [("default", "zip", ""), ("zip-store", "zip", ""), ("tgz", "tar.gz", "bert/"), ("no-archive", "folder", "")],
)
def test_report_of_a_good_archive(packed, report, archive_format, kind, prefix):
    path = packed(archive_format)
    status, found = report(path)
    assert status == 0
    assert (found["path"], found["format"]) == (path, kind)
    assert (found["wouldLoad"], found["problems"]) == (True, [])
    assert found["manifest"]["model"]["serializedFile"] == "model.safetensors"
    assert found["config"] == {"minWorkers": 1, "handler": {"mode": "sequence_classification"}}
    sizes = {file["name"]: file["sizeBytes"] for file in found["files"]}
    assert set(sizes) == {prefix + name for name in FILES}
    assert sizes[f"{prefix}model.safetensors"] == 4096
    assert found["totalBytes"] == sum(sizes.values())


def test_compression_is_shown(packed, report):
    _, found = report(packed())
    files = {file["name"]: (file["compression"], file["compressedBytes"]) for file in found["files"]}
    assert files["model.safetensors"] == ("stored", 4096)
    assert files["MAR-INF/MANIFEST.json"][0] == "deflated"


def test_text_for_people(packed, capsys):
    path = packed()
    assert main(["inspect", path]) == 0
    text = capsys.readouterr().out
    assert text.startswith("bert.mar: zip, 5 files, 4.")
    assert "modelName        bert" in text
    assert "mode: sequence_classification" in text
    assert [line.split() for line in text.splitlines() if "model.safetensors" in line][-1] == [
        *("model.safetensors", "4.1", "kB", "4.1", "kB", "stored")
    ]
    assert text.endswith("It would load.\n")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model.safetensors": None}, 'serializedFile: "model.safetensors" is not in the archive'),
        ({"my_handler.py": None}, 'handler: "my_handler.py" is not in the archive'),
        ({"my_handler.py": b"x = 1\ndef handle(:\n"}, "my_handler.py, line 2: "),
        ({"model-config.yaml": b"- 1"}, "model-config.yaml holds [1] where a mapping"),
        ({"model-config.yaml": b"handler: x"}, "model-config.yaml: handler is 'x'"),
        ({"MAR-INF/MANIFEST.json": b"{"}, "Failed to parse signature.json."),
        ({"MAR-INF/MANIFEST.json": None}, "There is no MAR-INF/MANIFEST.json"),
        ({"MAR-INF/MANIFEST.json": b'{"runtime": "python", "model": {"modelName": "a"}}'}, "names no handler"),
        ({"../evil": b""}, "Entry '../evil' is refused: it leaves the archive"),
    ],
)
def test_what_would_not_load_is_named(packed, report, capsys, changes, problem):
    path = rewritten(packed(), changes)
    status, found = report(path)
    assert status == 1
    assert found["wouldLoad"] is False
    assert len(found["problems"]) == 1
    assert problem in found["problems"][0]
    assert main(["inspect", path]) == 1
    text = capsys.readouterr().out
    assert "It would not load:\n  - " in text and problem in text


def test_all_problems_are_named_at_once(packed, report):
    path = rewritten(packed(), {"model.safetensors": None, "my_handler.py": b"def", "model-config.yaml": b"["})
    _, found = report(path)
    assert len(found["problems"]) == 3


def test_nothing_is_executed_or_written(packed, report, inputs):
    path = rewritten(packed(), {"my_handler.py": b"open('canary', 'w')\n"})
    before = sorted(os.listdir())
    assert report(path)[0] == 0
    assert sorted(os.listdir()) == before


def test_a_damaged_weight_file_is_found(packed, report):
    path = Path(packed())
    data = path.read_bytes()
    weights = data.index(bytes(range(256)))
    path.write_bytes(data[:weights] + b"\xff" + data[weights + 1 :])
    status, found = report(str(path))
    assert status == 1
    assert "damaged" in found["problems"][0]


def test_a_file_that_is_no_archive(inputs, report):
    status, found = report("net.py")
    assert (status, found["format"], found["files"]) == (1, "unknown", [])
    assert found["problems"] == ["net.py is no ZIP and no tar.gz: it looks like a text file."]


def test_a_missing_file(inputs, capsys):
    assert main(["inspect", "none.mar"]) == 1
    assert capsys.readouterr().err == "[Errno 2] No such file or directory: 'none.mar'\n"


def test_a_folder_inside_a_folder(packed, report):
    Path("outer").mkdir()
    Path(packed("no-archive")).rename("outer/bert")
    assert report("outer")[0] == 0


def test_yaml_values_without_a_json_type(packed, report):
    text = "when: 2020-01-01\nodd: .inf\n1: one\nset: !!set {a}\nbytes: !!binary aGk=\n"
    path = rewritten(packed(), {"model-config.yaml": text.encode()})
    _, found = report(path)
    assert found["config"] == {
        "when": "2020-01-01",
        "odd": "inf",
        "1": "one",
        "set": ["a"],
        "bytes": "b'hi'",
    }


def test_text_from_an_archive_cannot_steer_the_terminal(packed, capsys):
    manifest = {"runtime": "python", "evil\x1b[2J": "\x1b]0;x\x07", "model": {"modelName": "a\x1b[31m", "handler": "h"}}
    path = rewritten(packed(), {"MAR-INF/MANIFEST.json": json.dumps(manifest).encode()})
    main(["inspect", path])
    assert "\x1b" not in capsys.readouterr().out


def test_a_manifest_in_a_zip_is_read_at_its_root_only(inputs, report):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("top/MAR-INF/MANIFEST.json", "{}")
    Path("a.mar").write_bytes(buffer.getvalue())
    assert "There is no MAR-INF/MANIFEST.json" in report("a.mar")[1]["problems"][0]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"serialized_file": None}, "image_classifier has no model to load"),
        ({}, "model.safetensors needs the class it belongs to"),
        ({"model_file": "net.py"}, None),
        ({"config_file": "pickles.yaml"}, None),
    ],
)
def test_a_built_in_handler_without_a_model_would_not_load(packed, report, inputs, changes, problem):
    (inputs / "pickles.yaml").write_text("handler: {allow_pickle: true}")
    _, found = report(packed(**{"handler": "image_classifier", **changes}))
    assert [text.partition(":")[0] for text in found["problems"]] == ([problem] if problem else [])
