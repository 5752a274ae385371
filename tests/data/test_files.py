"""Find the inputs of a run in folders, lists and patterns, and identify them by content."""

from __future__ import annotations

from pathlib import Path

import pytest

from reactometer.data.files import find_files, hash_files
from reactometer.errors import DataError
from reactometer.io import sha256_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b.mp4",
        "a.MOV",
        "in/c.wav",
        "in/.hidden.mp4",
        ".cache/d.mp4",
        "notes.docx",
        "in/poster.jpg",
    ):
        file = tmp_path / "videos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path / "videos"


def test_folders_are_searched_at_any_depth(folder: Path) -> None:
    assert find_files([folder]) == [str(folder / name) for name in ("a.MOV", "b.mp4", "in/c.wav")]


def test_a_single_folder_is_accepted(folder: Path) -> None:
    assert (
        find_files(folder) == find_files(str(folder)) == find_files([folder]) == find_files(folder.as_uri())
    )


def test_links_are_followed_once_and_broken_links_are_listed(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.mp4").write_text("far")
    (folder / "link").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    (folder / "dead.mp4").symlink_to(tmp_path / "nothing")
    names = ("a.MOV", "b.mp4", "dead.mp4", "in/c.wav", "link/far.mp4")
    assert find_files([folder]) == [str(folder / name) for name in names]


def test_each_file_is_listed_once_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "list.txt").write_text("\ufeffin/c.wav\n\n  b.mp4 \nnot there.mp4\n", encoding="utf-8")
    (folder / "list.csv").write_text('path,person\n"a.MOV",P1\nb.mp4,P2\n', encoding="utf-8")
    named = [
        str(folder / "notes.docx"),
        str(folder / "**/*.mp4"),
        str(folder / "list.txt"),
        str(folder / "list.csv"),
    ]
    assert find_files(named) == [
        str(folder / name)
        for name in (
            "notes.docx",
            ".cache/d.mp4",
            "b.mp4",
            "in/.hidden.mp4",
            "in/c.wav",
            "not there.mp4",
            "a.MOV",
        )
    ]
    monkeypatch.chdir(folder)
    assert find_files(["*.mp4", "b.mp4", "[b].mp4"]) == ["b.mp4"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "no files to predict"),
        (["in/none"], r"none: no video or sound file in the folder"),
        (["*.avi"], r"\*.avi: no file matches the pattern"),
        (["empty.txt"], "empty.txt: no video or sound file in the list"),
        (["latin.txt"], "latin.txt: not a list of paths: .*Save it as UTF-8"),
        (["no path.csv"], r"no column 'path' \(got clip_name"),
    ],
)
def test_inputs_without_files_are_refused(
    inputs: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "in" / "none").mkdir()
    (folder / "empty.txt").write_text("\n")
    (folder / "latin.txt").write_bytes("Mädchen.mp4".encode("latin-1"))
    (folder / "no path.csv").write_text("clip_name\na.mp4\n")
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match=message):
        find_files(inputs)


def test_unreadable_files_have_a_problem(folder: Path) -> None:
    good, gone, index, impossible = hash_files(
        [*(str(folder / name) for name in ("a.MOV", "gone.mp4", "in")), "a\0b.mp4"]
    )
    assert (good.sha256, good.problem) == (sha256_of(folder / "a.MOV"), "")
    assert (gone.sha256, gone.problem) == ("", "No such file or directory")
    assert (index.problem, impossible.problem) == ("Is a directory", "embedded null byte")
