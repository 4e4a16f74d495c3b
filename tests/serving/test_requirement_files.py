"""What belongs to the content of a requirements file. pip's documentation says how it looks for what a line names."""

from pathlib import Path

import pytest

from model_server.serving.requirements import UnusableRequirements, content_hashes

# sha256sum of a file that holds the three bytes `abc`.
SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
FILES = ("a-1.0-py3-none-any.whl", "b-2.0.tar.gz", "wheels/c.whl", "wheels/deep/d.whl", "nested/e.txt", "e.txt", "x.py")


def names(root: Path, text: str, file: str = "requirements.txt") -> set[str]:
    """Paths that count, without the file itself."""
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / file).write_text(text)
    return set(content_hashes(root, file)) - {file}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("numpy>=2", set()),
        ("", set()),
        ("./a-1.0-py3-none-any.whl", {"a-1.0-py3-none-any.whl"}),
        ("a-1.0-py3-none-any.whl --hash=sha256:00 ; python_version > '3'", {"a-1.0-py3-none-any.whl"}),
        ("./b-2.0.tar.gz[extra]", {"b-2.0.tar.gz"}),
        ("numpy\n  ./b-2.0.tar.gz  # comment", {"b-2.0.tar.gz"}),
        ("--find-links wheels\nc", {"wheels/c.whl", "wheels/deep/d.whl"}),
        ("--find-links=./wheels", {"wheels/c.whl", "wheels/deep/d.whl"}),
        ("-f 'wheels'", {"wheels/c.whl", "wheels/deep/d.whl"}),
        ("-r e.txt", {"e.txt"}),
        ("-re.txt", {"e.txt"}),
        ("--requirement=nested/e.txt", {"nested/e.txt"}),
        ("-c e.txt", {"e.txt"}),
        ("-r missing.txt", set()),
        ("./" + "x" * 5000, set()),
        ("../outside.whl", set()),
        ("--find-links /", set()),
        ("-f ..", set()),
        ("-e git+https://example.org/a.git#egg=a", set()),
        ("\x00\xff", set()),
    ],
)
def test_files_of_the_archive_that_a_line_names(tmp_path: Path, line: str, expected: set[str]) -> None:
    (tmp_path / "outside.whl").touch()
    assert names(tmp_path / "root", line) == expected


def test_an_included_file_is_read_and_names_files_beside_it_or_in_the_models_folder(tmp_path: Path) -> None:
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested/more.txt").write_text("-r e.txt\n./b-2.0.tar.gz\n-r more.txt\n")
    assert names(tmp_path, "-r nested/more.txt") == {"nested/more.txt", "nested/e.txt", "e.txt", "b-2.0.tar.gz"}


def test_hashes_are_those_of_the_contents(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_bytes(b"abc")
    assert content_hashes(tmp_path, "requirements.txt") == {"requirements.txt": SHA256_OF_ABC}
    (tmp_path / "abc").write_bytes(b"abc")
    hashes = content_hashes(tmp_path, "requirements.txt")
    assert hashes == {"requirements.txt": SHA256_OF_ABC, "abc": SHA256_OF_ABC}


@pytest.mark.parametrize("line", ["-e ./wheels", "--editable=wheels[extra]", "numpy\n  -e wheels"])
def test_an_editable_folder_of_the_archive_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(UnusableRequirements, match=r"^requirements\.txt has -e \./wheels, .* write \./wheels without"):
        names(tmp_path, line)
