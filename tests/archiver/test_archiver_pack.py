"""What is in a packed archive: read back with zipfile and tarfile, not with our own readers."""

import json
import os
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from archiver.errors import PackError
from archiver.manifest import archiver_version
from archiver.pack import PackRequest, pack
from archiver.unpack import unpack


def request(**changes) -> PackRequest:
    return PackRequest(**{"model_name": "bert", "version": "1.0", "handler": "my_handler.py", **changes})


def everything(**changes) -> PackRequest:
    return request(
        serialized_file="model.safetensors",
        model_file="net.py",
        extra_files="extras",
        requirements_file="requirements.txt",
        config_file="model-config.yaml",
        **changes,
    )


STORED = (".pt", ".pth", ".bin", ".safetensors", ".onnx", ".so", ".pt2", ".npz", ".h5", ".gguf", ".PT", ".zip", ".jpg")
DEFLATED = (".json", ".txt", ".py", ".yaml", "", ".csv")


FILES = [
    ".hidden_file",
    "index_to_name.json",
    "model-config.yaml",
    "model.safetensors",
    "my_handler.py",
    "net.py",
    "requirements.txt",
    "vocab/deep/merges.txt",
    "vocab/vocab.txt",
]
MANIFEST = "MAR-INF/MANIFEST.json"


def names(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as zipped:
        return zipped.namelist()


def manifest(archive: Path) -> dict:
    with zipfile.ZipFile(archive) as zipped:
        return json.loads(zipped.read(MANIFEST))


# Formats


def test_default_format_deflates_text_and_stores_weights(inputs):
    with zipfile.ZipFile(pack(everything())) as archive:
        assert archive.namelist() == [*sorted(FILES), MANIFEST]
        assert archive.testzip() is None
        kinds = {info.filename: info.compress_type for info in archive.infolist()}
        assert archive.read("model.safetensors") == (inputs / "model.safetensors").read_bytes()
        assert archive.read("vocab/vocab.txt") == b"a\n" * 500
    assert kinds["model.safetensors"] == zipfile.ZIP_STORED
    assert kinds["vocab/vocab.txt"] == kinds[MANIFEST] == zipfile.ZIP_DEFLATED


@pytest.mark.parametrize(
    ("name", "stored"), [*((f"m{end}", True) for end in STORED), *((f"m{end}", False) for end in DEFLATED)]
)
def test_stored_or_deflated_by_extension(inputs, name, stored):
    Path(name).write_text("# " + "a" * 1000)
    with zipfile.ZipFile(pack(request(extra_files=name))) as archive:
        expected = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
        assert archive.getinfo(name).compress_type == expected


def test_zip_store_compresses_nothing(inputs):
    with zipfile.ZipFile(pack(everything(archive_format="zip-store"))) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.namelist() == [*sorted(FILES), MANIFEST]


def test_tgz_puts_everything_into_a_folder_of_the_models_name(inputs):
    output = pack(everything(archive_format="tgz"))
    assert output.name == "bert.tar.gz"
    with tarfile.open(output, "r:gz") as archive:
        members = archive.getmembers()
        content = archive.extractfile("bert/vocab/vocab.txt").read()
    assert [member.name for member in members] == [f"bert/{name}" for name in [*sorted(FILES), MANIFEST]]
    assert {(member.mode, member.uid, member.gid, member.uname) for member in members} == {(0o644, 0, 0, "")}
    assert content == b"a\n" * 500


def test_no_archive_is_a_folder(inputs, file_names):
    output = pack(everything(archive_format="no-archive"))
    assert file_names(output) == sorted([*FILES, MANIFEST])
    assert (output / "model.safetensors").read_bytes() == Path("model.safetensors").read_bytes()


def test_no_archive_with_force_replaces_the_folder_as_a_whole(inputs, file_names):
    output = pack(everything(archive_format="no-archive", export_path="out"))
    (output / "stale.txt").touch()
    pack(request(archive_format="no-archive", export_path="out", force=True))
    assert file_names(output) == [MANIFEST, "my_handler.py"]
    assert os.listdir("out") == ["bert"]


def test_no_archive_never_replaces_the_folder_its_inputs_come_from(inputs):
    Path("bert").mkdir()
    Path("bert/weights.pt").write_text("precious")
    with pytest.raises(PackError, match=r"bert/weights\.pt lies in bert, the folder that would be replaced"):
        pack(request(archive_format="no-archive", serialized_file="bert/weights.pt", force=True))
    assert Path("bert/weights.pt").read_text() == "precious"


def test_nothing_in_the_temporary_folder_is_touched(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "mine.txt").touch()
    pack(everything(export_path=str(tmp_path / "out")))
    assert sorted(os.listdir(tmp_path)) == ["bert", "inputs", "out"]
    assert os.listdir(tmp_path / "bert") == ["mine.txt"]
    pack(request(archive_format="no-archive", export_path=str(tmp_path), force=True))
    assert (tmp_path / "bert" / MANIFEST).is_file()


def test_zip64_is_used_where_a_file_needs_it(inputs, monkeypatch):
    with monkeypatch.context() as small:
        small.setattr(zipfile, "ZIP64_LIMIT", 1000)
        output = pack(request(serialized_file="model.safetensors"))
    with zipfile.ZipFile(output) as archive:
        assert archive.testzip() is None
        assert archive.getinfo("model.safetensors").file_size == 4096
    assert b"PK\x06\x06" in output.read_bytes()
    unpack(output, inputs / "unpacked")
    assert (inputs / "unpacked/model.safetensors").read_bytes() == (inputs / "model.safetensors").read_bytes()


# Manifest


def test_manifest_has_the_keys_of_the_contract_in_their_order(inputs, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    output = pack(everything())
    with zipfile.ZipFile(output) as archive:
        text = archive.read(MANIFEST).decode()
    expected = {
        "createdOn": "14/11/2023 22:13:20",
        "runtime": "python",
        "model": {
            "modelName": "bert",
            "serializedFile": "model.safetensors",
            "handler": "my_handler.py",
            "modelFile": "net.py",
            "modelVersion": "1.0",
            "requirementsFile": "requirements.txt",
            "configFile": "model-config.yaml",
        },
        "archiverVersion": archiver_version(),
    }
    assert text == json.dumps(expected, indent=2)


def test_created_on_is_the_newest_modification_of_the_inputs(inputs):
    os.utime("my_handler.py", (0, 1_600_000_000))
    os.utime("net.py", (0, 1_500_000_000))
    assert manifest(pack(request(model_file="net.py")))["createdOn"] == "13/09/2020 12:26:40"


@pytest.mark.parametrize("value", ["now", "1.5", "9" * 30])
def test_a_source_date_epoch_that_is_no_time(inputs, monkeypatch, value):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    with pytest.raises(PackError, match=f"SOURCE_DATE_EPOCH is '{value}'"):
        pack(request())


@pytest.mark.parametrize(
    ("handler", "packed", "stated"),
    [
        ("my_handler.py", ["my_handler.py"], "my_handler.py"),
        ("./sub/h.py", ["h.py"], "h.py"),
        ("sub/h", ["h.py"], "h"),
        ("sub/h:entry", ["h.py"], "h:entry"),
        ("sub/h.py:entry", ["h.py"], "h:entry"),
        ("my_handler", ["my_handler.py"], "my_handler"),
        ("base_handler", [], "base_handler"),
        ("transformer_handler", [], "transformer_handler"),
        ("image_classifier", [], "image_classifier"),
        ("trt_llm_handler", [], "trt_llm_handler"),
    ],
)
def test_handler_forms(inputs, handler, packed, stated):
    Path("sub").mkdir()
    Path("sub/h.py").write_text("def entry(data, context): ...\n")
    Path("image_classifier.py").write_text("a built-in name wins over a file\n")
    output = pack(request(handler=handler))
    assert names(output) == [*packed, MANIFEST]
    assert manifest(output)["model"]["handler"] == stated


@pytest.mark.parametrize("handler", ["my_handler.py:a:b", "my_handler:", ":entry", "", "my_handler:not-a-name"])
def test_handler_that_means_nothing(inputs, handler):
    with pytest.raises(PackError, match="--handler"):
        pack(request(handler=handler))


def test_lsp_handlers_are_shared_libraries(inputs):
    Path("lib.so").write_bytes(b"\x7fELF")
    output = pack(request(runtime="LSP", handler="./lib:Handler"))
    assert names(output) == ["lib.so", MANIFEST]
    assert manifest(output)["runtime"] == "LSP"
    assert manifest(output)["model"]["handler"] == "lib:Handler"
    assert names(pack(request(runtime="LSP", handler="TorchScriptHandler", force=True))) == [MANIFEST]


# Extra files


def extra_names(items: str) -> list[str]:
    return names(pack(request(handler="base_handler", extra_files=items, force=True)))[:-1]


def test_the_contents_of_a_folder_go_to_the_root(inputs):
    assert extra_names("extras") == [".hidden_file", "index_to_name.json", "vocab/deep/merges.txt", "vocab/vocab.txt"]


def test_blanks_and_empty_items_in_the_list(inputs):
    assert extra_names(" net.py , requirements.txt,") == ["net.py", "requirements.txt"]


def test_wildcards_flatten_the_folders_they_match_but_match_no_dropped_ones(inputs):
    assert extra_names("extras/*") == ["deep/merges.txt", "index_to_name.json", "vocab.txt"]
    assert extra_names("extras/vocab/*") == ["merges.txt", "vocab.txt"]
    assert extra_names("requirement?.txt,[n]et.py") == ["net.py", "requirements.txt"]


def test_two_folders_with_a_sub_folder_of_one_name_are_merged(inputs):
    Path("more/vocab").mkdir(parents=True)
    Path("more/vocab/extra.txt").touch()
    assert "vocab/extra.txt" in extra_names("extras,more")
    assert "vocab/vocab.txt" in extra_names("extras,more")


def test_of_two_files_for_one_name_the_later_wins_with_a_warning(inputs, caplog):
    Path("other").mkdir()
    Path("other/net.py").write_text("# other\n")
    output = pack(request(model_file="net.py", extra_files="other/net.py"))
    with zipfile.ZipFile(output) as archive:
        assert archive.read("net.py") == b"# other\n"
    assert caplog.messages == ["other/net.py replaces net.py: both would be net.py in the archive"]


def test_the_same_content_twice_is_no_warning(inputs, caplog):
    assert extra_names("net.py,./net.py,net.py") == ["net.py"]
    assert caplog.messages == []


def test_a_packed_folder_can_be_packed_again(inputs, caplog):
    folder = pack(everything(archive_format="no-archive"))
    output = pack(request(extra_files=str(folder), version="2.0"))
    assert manifest(output)["model"]["modelVersion"] == "2.0"
    assert names(output).count(MANIFEST) == 1
    assert "is not packed: the archive gets a new manifest" in caplog.text


def test_an_archive_does_not_pack_itself(inputs):
    first = names(pack(request(extra_files=".")))
    assert names(pack(request(extra_files=".", force=True))) == first


def test_links_inside_the_folder_are_followed(inputs):
    Path("extras/alias.txt").symlink_to("vocab/vocab.txt")
    Path("extras/words").symlink_to("vocab", target_is_directory=True)
    with zipfile.ZipFile(pack(request(extra_files="extras"))) as archive:
        assert archive.read("alias.txt") == archive.read("words/vocab.txt") == b"a\n" * 500


@pytest.mark.parametrize("target", ["../net.py", "/etc/hostname", "..", "../requirements.txt"])
def test_links_that_lead_out_of_the_folder_are_refused(inputs, target):
    Path("extras/vocab/link").symlink_to(Path(target) if target.startswith("/") else Path("..") / target)
    with pytest.raises(PackError, match="extras/vocab/link is a link to "):
        pack(request(extra_files="extras"))
    assert not Path("bert.mar").exists()


def test_links_that_lead_nowhere_or_round_in_a_circle_are_refused(inputs):
    Path("extras/link").symlink_to("vocab/none")
    with pytest.raises(PackError, match="Invalid extra file given extras/link"):
        pack(request(extra_files="extras"))
    Path("extras/link").unlink()
    Path("extras/vocab/up").symlink_to("..", target_is_directory=True)
    with pytest.raises(PackError, match="extras/vocab/up is a link to a folder that it lies in"):
        pack(request(extra_files="extras"))


@pytest.mark.parametrize("name", ["back\\slash.txt", "new\nline.txt", "VOCAB", "dot."])
def test_names_that_could_not_be_unpacked_are_not_packed(inputs, name):
    Path("extras", name).touch()
    with pytest.raises(PackError, match="cannot be packed"):
        pack(request(extra_files="extras"))


# Reproducibility and concurrency


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz"])
def test_same_inputs_same_bytes(inputs, archive_format, monkeypatch):
    first = pack(everything(archive_format=archive_format)).read_bytes()
    assert pack(everything(archive_format=archive_format, force=True)).read_bytes() == first
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    dated = pack(everything(archive_format=archive_format, force=True)).read_bytes()
    for path in inputs.rglob("*.*"):
        os.utime(path, (1_500_000_000, 1_500_000_000))
        path.chmod(0o755)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    assert pack(everything(archive_format=archive_format, force=True)).read_bytes() == dated


def test_entry_times_are_source_date_epoch_or_1980(inputs, monkeypatch):
    def entry_times(output: Path) -> set:
        with zipfile.ZipFile(output) as archive:
            return {info.date_time for info in archive.infolist()}

    assert entry_times(pack(request())) == {(1980, 1, 1, 0, 0, 0)}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert entry_times(pack(request(force=True))) == {(2023, 11, 14, 22, 13, 20)}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert entry_times(pack(request(force=True))) == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("archive_format", ["default", "no-archive"])
def test_concurrent_packs_of_one_name_one_wins(inputs, archive_format):
    Path("out").mkdir()

    def attempt(version: int) -> str:
        try:
            pack(everything(version=str(version), archive_format=archive_format, export_path="out"))
        except PackError as error:
            return str(error).splitlines()[0]
        return "packed"

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(attempt, range(1, 17)))
    output = {"default": "out/bert.mar", "no-archive": "out/bert"}[archive_format]
    assert sorted(results) == sorted(["packed"] + [f"{output} already exists."] * 15)
    assert os.listdir("out") == [Path(output).name]


@pytest.mark.parametrize("archive_format", ["default", "no-archive"])
def test_concurrent_packs_with_force_all_succeed_and_the_result_is_whole(inputs, archive_format, file_names):
    Path("out").mkdir()

    def attempt(version: int) -> None:
        pack(
            request(
                version=str(version),
                serialized_file="model.safetensors",
                archive_format=archive_format,
                export_path="out",
                force=True,
            )
        )

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(attempt, range(16)))
    if archive_format == "default":
        assert os.listdir("out") == ["bert.mar"]
        with zipfile.ZipFile("out/bert.mar") as archive:
            assert archive.testzip() is None
    else:
        assert os.listdir("out") == ["bert"]
        assert file_names(Path("out/bert")) == [MANIFEST, "model.safetensors", "my_handler.py"]
