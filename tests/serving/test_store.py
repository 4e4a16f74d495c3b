"""Finding and opening archives. The order of looking and the messages are TorchServe's."""

import asyncio
import io
import json
import os
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from model_server.config.server import DownloadRules, StartupModel
from model_server.errors import DownloadFailed, InvalidModel, ModelNotFound, ServerError
from model_server.serving.store import ModelStore, OpenedArchive, derived_name

MANIFEST = {"runtime": "python", "model": {"modelName": "packed", "handler": "handler.py", "modelVersion": "2.0"}}
FILES = {"MAR-INF/MANIFEST.json": json.dumps(MANIFEST).encode(), "handler.py": b"def handle(data, context): pass\n"}


def with_model(**entries: str) -> dict[str, bytes]:
    manifest = {**MANIFEST, "model": {**MANIFEST["model"], **entries}}  # type: ignore[dict-item]
    return {**FILES, "MAR-INF/MANIFEST.json": json.dumps(manifest).encode()}


def mar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tgz(files: dict[str, bytes], folder: str = "packed/") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def lay_out(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


class Shop:
    """A model store on disk, and the private folder beside it."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "model_store"
        self.temp = root / "temp"
        self.outside = root / "outside"
        for folder in (self.folder, self.temp, self.outside):
            folder.mkdir()
        self.store = ModelStore([self.folder], self.temp, DownloadRules())

    def open(self, url: str, startup: bool = False) -> OpenedArchive:
        return asyncio.run(self.store.open(url, startup=startup))

    def refused(self, url: str, error: type[ServerError], startup: bool = False) -> str:
        with pytest.raises(error) as caught:
            self.open(url, startup)
        assert type(caught.value) is error
        assert self.unpacked() == []
        return caught.value.message

    def unpacked(self) -> list[Path]:
        """Everything in the private folder."""
        (private,) = self.temp.iterdir()
        return list(private.iterdir())


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


# --- formats ---


@pytest.mark.parametrize(("name", "content"), [("m.mar", mar(FILES)), ("m.tar.gz", tgz(FILES)), ("m.any", tgz(FILES))])
def test_an_archive_is_unpacked_into_a_private_folder(shop: Shop, name: str, content: bytes) -> None:
    (shop.folder / name).write_bytes(content)
    archive = shop.open(name)
    assert (archive.root / "handler.py").read_bytes() == FILES["handler.py"]
    assert archive.manifest is not None and archive.manifest.model.model_version == "2.0"
    assert shop.unpacked() == [archive.owned]
    asyncio.run(shop.store.discard(archive))
    assert shop.unpacked() == []
    assert (shop.folder / name).exists()


def test_every_opening_has_a_folder_of_its_own(shop: Shop) -> None:
    (shop.folder / "m.mar").write_bytes(mar(FILES))
    first, second = shop.open("m.mar"), shop.open("m.mar")
    assert first.root != second.root
    asyncio.run(shop.store.discard(first))
    assert (second.root / "handler.py").exists()


def test_closing_the_store_leaves_nothing(shop: Shop) -> None:
    (shop.folder / "m.mar").write_bytes(mar(FILES))
    shop.open("m.mar")
    shop.store.close()
    assert list(shop.temp.iterdir()) == []


def test_a_folder_is_served_where_it_is(shop: Shop) -> None:
    lay_out(shop.folder / "m", FILES)
    archive = shop.open("m")
    assert (archive.root, archive.owned) == (shop.folder / "m", None)
    asyncio.run(shop.store.discard(archive))
    assert (shop.folder / "m/handler.py").exists()


@pytest.mark.parametrize("form", ["folder", "tar.gz"])
def test_a_folder_in_a_folder_is_the_model(shop: Shop, form: str) -> None:
    if form == "folder":
        lay_out(shop.folder / "m/inner", FILES)
    else:
        (shop.folder / "m").write_bytes(tgz(FILES, folder="code/inner/"))
    assert shop.open("m").manifest is not None


def test_a_folder_with_more_than_one_entry_is_the_model_itself(shop: Shop) -> None:
    lay_out(shop.folder / "m", {"inner/x": b"", "readme": b""})
    assert shop.open("m").root == shop.folder / "m"


def test_an_archive_without_manifest_may_be_opened(shop: Shop) -> None:
    (shop.folder / "m.mar").write_bytes(mar({"handler.py": b""}))
    archive = shop.open("m.mar")
    assert (archive.manifest, archive.config) == (None, None)


def test_the_archives_configuration_is_read(shop: Shop) -> None:
    files = with_model(configFile="settings.yaml") | {"settings.yaml": b"minWorkers: 3\nbatchSzie: 4\n"}
    (shop.folder / "m.mar").write_bytes(mar(files))
    archive = shop.open("m.mar")
    assert archive.config is not None and archive.config.min_workers == 3
    assert any("batchSzie" in warning for warning in archive.warnings)


# --- order of looking ---


@pytest.mark.parametrize("url", ["m.mar", "sub/m.mar", "/anywhere/m.mar", "./m.mar"])
def test_only_the_last_component_names_a_file_of_the_store(shop: Shop, url: str) -> None:
    (shop.folder / "m.mar").write_bytes(mar(FILES))
    assert shop.open(url).owned is not None


def test_a_file_of_the_store_comes_before_a_folder_elsewhere(shop: Shop) -> None:
    (shop.folder / "m").write_bytes(tgz(FILES))
    lay_out(shop.outside / "m", FILES)
    assert shop.open(str(shop.outside / "m"), startup=True).owned is not None


def test_a_folder_elsewhere_comes_before_one_of_the_store(shop: Shop) -> None:
    lay_out(shop.folder / "m", FILES)
    lay_out(shop.outside / "m", FILES)
    assert shop.open(str(shop.outside / "m"), startup=True).root == shop.outside / "m"
    assert shop.open(str(shop.outside / "m"), startup=False).root == shop.folder / "m"


def test_relative_folders_count_from_the_current_directory(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(shop.outside / "mine/m", FILES)
    monkeypatch.chdir(shop.outside)
    assert shop.open("mine/m", startup=True).root == shop.outside / "mine/m"


def test_management_may_name_folders_inside_the_store_only(shop: Shop) -> None:
    lay_out(shop.folder / "deep/m", FILES)
    lay_out(shop.outside / "other", FILES)
    assert shop.open(str(shop.folder / "deep/m")).root == shop.folder / "deep/m"
    url = str(shop.outside / "other")
    assert shop.refused(url, ModelNotFound) == f"Model not found at: {url}"


def test_a_link_does_not_lead_management_out_of_the_store(shop: Shop) -> None:
    lay_out(shop.outside / "secret", FILES)
    (shop.folder / "deep").mkdir()
    (shop.folder / "deep/link").symlink_to(shop.outside / "secret")
    shop.refused(str(shop.folder / "deep/link"), ModelNotFound)


def test_a_link_in_the_store_itself_is_its_owners_word(shop: Shop) -> None:
    (shop.outside / "m.mar").write_bytes(mar(FILES))
    lay_out(shop.outside / "folder", FILES)
    for name in ("m.mar", "folder"):
        (shop.folder / name).symlink_to(shop.outside / name)
    assert shop.open("m.mar").owned is not None
    assert (shop.open("folder").root / "handler.py").exists()


# --- several stores ---


def test_the_first_store_that_has_it_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, name in ((first, "both"), (second, "both"), (second, "only")):
        lay_out(folder, {f"{name}.mar": mar(FILES | {folder.name: b""})})
    lay_out(second / "folder", FILES)
    store = ModelStore([first, second], tmp_path, DownloadRules())
    for url, found in (("both.mar", "first"), ("only.mar", "second")):
        assert (asyncio.run(store.open(url, startup=False)).root / found).exists()
    for url in ("folder", str(second / "folder")):
        assert asyncio.run(store.open(url, startup=False)).root == second / "folder"
    assert store.list_all() == [StartupModel(None, name) for name in ("both.mar", "folder", "only.mar")]
    store.close()


def test_a_file_of_the_second_store_comes_before_a_folder_of_the_first(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    lay_out(first / "m", FILES)
    lay_out(second, {"m": tgz(FILES)})
    store = ModelStore([first, second], tmp_path, DownloadRules())
    assert asyncio.run(store.open("m", startup=False)).owned is not None
    store.close()


# --- what is fetched ---


class Fetched(Shop):
    """A store that may fetch what lies in `outside`; a second store behind it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (root / "second").mkdir()
        rules = DownloadRules(allowed_urls=(re.compile(f"file://{self.outside}/.*"),))
        self.store.close()
        self.store = ModelStore([self.folder, root / "second"], self.temp, rules)

    def offer(self, content: bytes) -> str:
        (self.outside / "m.mar").write_bytes(content)
        return f"file://{self.outside}/m.mar"


@pytest.fixture
def fetched(tmp_path: Path) -> Fetched:
    return Fetched(tmp_path)


def test_what_is_fetched_lies_in_the_first_store_until_the_model_goes(fetched: Fetched) -> None:
    archive = fetched.open(fetched.offer(mar(FILES)))
    assert archive.downloaded == fetched.folder / "m.mar"
    assert (archive.root / "handler.py").exists()
    asyncio.run(fetched.store.discard(archive))
    assert (fetched.unpacked(), list(fetched.folder.iterdir())) == ([], [])
    assert (fetched.outside / "m.mar").exists()


def test_what_is_fetched_and_cannot_be_served_leaves_nothing_behind(fetched: Fetched) -> None:
    url = fetched.offer(mar({"../escape.py": b"", **FILES}))
    assert "escape.py" in fetched.refused(url, InvalidModel)
    assert list(fetched.folder.iterdir()) == []
    assert fetched.refused("m.mar", ModelNotFound) == "Model not found at: m.mar"


def test_a_file_that_an_earlier_run_has_fetched_is_the_operators(fetched: Fetched) -> None:
    url = fetched.offer(mar(FILES))
    (fetched.folder / "m.mar").write_bytes(mar(FILES | {"earlier": b""}))
    assert fetched.refused(url, ServerError) == "Model file already exists m.mar"
    archive = fetched.open(url, startup=True)
    assert (archive.root / "earlier").exists()
    asyncio.run(fetched.store.discard(archive))
    assert (fetched.folder / "m.mar").exists()


def test_keys_of_s3_are_asked_for_before_anything_is_fetched(fetched: Fetched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with pytest.raises(DownloadFailed, match="s3_sse_kms needs AWS_ACCESS_KEY_ID"):
        asyncio.run(fetched.store.open(fetched.offer(mar(FILES)), startup=False, s3_sse_kms=True))
    assert list(fetched.folder.iterdir()) == []


# --- what is refused ---


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "empty url"),
        ("../m.mar", "Relative path is not allowed in url: ../m.mar"),
        ("a/../m.mar", "Relative path is not allowed in url: a/../m.mar"),
        ("http://host/m.mar", "Given URL http://host/m.mar does not match any allowed URL(s)"),
        ("HTTPS://host/m.mar", "Given URL HTTPS://host/m.mar does not match any allowed URL(s)"),
        ("file:///m.mar", "Given URL file:///m.mar does not match any allowed URL(s)"),
        ("nothing.mar", "Model not found at: nothing.mar"),
        ("s3://bucket/nothing.mar", "Model not found at: s3://bucket/nothing.mar"),
        ("/", "Model not found at: /"),
        (".", "Model not found at: ."),
        ("nul\0.mar", "Model not found at: nul\0.mar"),
        ("x" * 300, f"Model not found at: {'x' * 300}. File name too long."),
        ("x" * 300 + "/m", f"Model not found at: {'x' * 300}/m. File name too long."),
    ],
)
def test_what_is_not_there_or_may_not_be_fetched_is_a_404(shop: Shop, url: str, message: str) -> None:
    (shop.folder / "m.mar").write_bytes(mar(FILES))
    assert shop.refused(url, ModelNotFound) == message


def test_without_a_store_nothing_is_found(tmp_path: Path) -> None:
    store = ModelStore([], tmp_path, DownloadRules())
    with pytest.raises(ModelNotFound, match=r"^Model store has not been configured\.$"):
        asyncio.run(store.open("m.mar", startup=True))
    assert store.list_all() == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", ""),
        (b"no archive at all", ""),
        (mar(FILES)[:-30], ""),
        (tgz(FILES)[:60], ""),
        (mar({"../escape.py": b"", **FILES}), "escape.py"),
        (mar({"/absolute.py": b"", **FILES}), "absolute.py"),
        (mar({"MAR-INF/MANIFEST.json": b"{"}), "Failed to parse signature.json."),
        (mar({"MAR-INF/MANIFEST.json": b"{}"}), "Missing Model entry in manifest file."),
        (mar({"MAR-INF/MANIFEST.json": b'{"model": {}, "runtime": "python"}'}), "Model name is not defined."),
        (mar(FILES | {"MAR-INF/MANIFEST.json": FILES["MAR-INF/MANIFEST.json"].replace(b"python", b"ruby")}), "ruby"),
        (mar(with_model(serializedFile="weights.bin")), "weights.bin"),
        (mar(with_model(handler="missing.py")), "missing.py"),
        (mar(with_model(configFile="missing.yaml")), "missing.yaml"),
    ],
)
def test_a_bad_archive_is_a_400_and_leaves_nothing_behind(shop: Shop, content: bytes, reason: str) -> None:
    (shop.folder / "bad.mar").write_bytes(content)
    message = shop.refused("bad.mar", InvalidModel)
    assert reason in message
    assert str(shop.temp) not in message
    assert [entry.name for entry in shop.folder.iterdir()] == ["bad.mar"]


def test_a_bad_folder_is_a_400(shop: Shop) -> None:
    lay_out(shop.folder / "m", with_model(serializedFile="weights.bin"))
    assert "weights.bin" in shop.refused("m", InvalidModel)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_archive_that_may_not_be_read_is_our_error(shop: Shop) -> None:
    (shop.folder / "m.mar").write_bytes(mar(FILES))
    (shop.folder / "m.mar").chmod(0)
    assert shop.refused("m.mar", ServerError).startswith("Failed to save model: m.mar. Permission denied")


def test_a_full_disk_is_our_error_and_leaves_nothing_behind(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        lay_out(target, {"half": b""})
        raise OSError(28, "No space left on device", str(target))

    (shop.folder / "m.mar").write_bytes(mar(FILES))
    monkeypatch.setattr("model_server.serving.store.unpack", full)
    message = shop.refused("m.mar", ServerError)
    assert message == "Failed to save model: m.mar. No space left on device."


# --- all, and names ---


def test_all_is_every_folder_and_archive_that_is_not_hidden(shop: Shop) -> None:
    for name in ("b.mar", "a.model", "c.tar.gz", "notes.txt", ".hidden.mar", "d.zip"):
        (shop.folder / name).touch()
    for name in ("folder", ".cache"):
        (shop.folder / name).mkdir()
    assert shop.store.list_all() == [StartupModel(None, name) for name in ("a.model", "b.mar", "c.tar.gz", "folder")]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("bert.mar", "bert"),
        ("bert.model", "bert"),
        ("x.tar.gz", "x_tar_gz"),
        ("/some/where/bert.mar", "bert"),
        ("my-model.v2.mar", "my_model_v2"),
        ("a folder", "a_folder"),
        ("folder", "folder"),
        ("folder.v1", "folder_v1"),
        ("_private", "_private"),
        ("-x.mar", "_x"),
        ("modèle.mar", "mod_le"),
        ("https://host/path/bert.mar", "bert"),
    ],
)
def test_name_of_a_startup_model_without_one(url: str, name: str) -> None:
    assert derived_name(url) == name
