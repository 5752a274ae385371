"""Bundles: used as they are by a process with nothing else, the same as a folder and as a zip, and checked."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from small_hub import SmallHub, look_at, running_hub
from small_weights import CONTENT, FILE, NAME, WANTED, damage, only_tiny, small_encoder

from reactometer.errors import ConfigError, ModelError, OutputError, WeightsError
from reactometer.models.bundle import bundle
from reactometer.models.encoders import load_frame_encoder
from reactometer.models.store import fetch, find_held, known_names
from reactometer.models.verify import verify
from reactometer.paths import OFFLINE

FOLDER = NAME.replace("/", "--")
FILES = [FILE.file_name, *(f"{FOLDER}/{name}" for name in WANTED)]

FIND = """
import sys
from reactometer.paths import WEIGHT_FILES, WeightFile, find_weights
sha256, size = sys.argv[1:]
WEIGHT_FILES["tiny"] = WeightFile("tiny", "tiny.onnx", "http://127.0.0.1:9/tiny.onnx", sha256, int(size), "MIT", "")
print(find_weights("tiny"))
"""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has one small file of weights, which is returned."""
    return only_tiny(tmp_path / "cache", monkeypatch)


@pytest.fixture
def hub(machine: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    """A Hub that has the encoder, for that machine."""
    assert machine.is_file()
    with running_hub(tmp_path / "hub", monkeypatch) as server:
        server.put(NAME, encoder)
        yield server


@pytest.fixture
def bundled(hub: SmallHub, tmp_path: Path) -> Path:
    """A folder with the small file and the encoder."""
    assert [held.name for held in bundle(tmp_path / "bundle", ["tiny", NAME])] == ["tiny", NAME]
    return tmp_path / "bundle"


def test_a_bundle_holds_the_files_as_they_are_and_says_whose_they_are(
    bundled: Path, hub: SmallHub, encoder: Path
) -> None:
    files = {str(path.relative_to(bundled)): path for path in bundled.rglob("*") if path.is_file()}
    assert set(files) == {*FILES, "manifest.json", "LICENCES.md"}
    assert not any(path.is_symlink() for path in files.values())
    assert files["tiny.onnx"].read_bytes() == CONTENT
    assert [files[f"{FOLDER}/{name}"].read_bytes() for name in WANTED] == [
        (encoder / name).read_bytes() for name in WANTED
    ]
    manifest = json.loads(files["manifest.json"].read_text())["files"]
    assert list(manifest) == FILES
    for path, about in manifest.items():
        assert about["sha256"] == hashlib.sha256(files[path].read_bytes()).hexdigest()
        assert about["size_bytes"] == files[path].stat().st_size
    assert (manifest["tiny.onnx"]["licence"], manifest["tiny.onnx"]["source"]) == ("MIT", "this test")
    assert manifest[f"{FOLDER}/model.safetensors"]["revision"] == hub.revision(NAME)
    assert f"| {NAME} | see its model card | huggingface.co/{NAME} |" in files["LICENCES.md"].read_text()


def test_a_fresh_process_without_a_network_finds_its_file_there(bundled: Path, tmp_path: Path) -> None:
    own = {"REACTOMETER_WEIGHTS": str(bundled), "REACTOMETER_CACHE": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", FIND, FILE.sha256, str(FILE.size_bytes)]
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(bundled / "tiny.onnx")), done.stderr
    assert not (tmp_path / "empty").exists()


def test_an_encoder_of_a_bundle_gives_the_same_features_without_a_network(
    bundled: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = torch.arange(3 * 64 * 64, dtype=torch.uint8).reshape(1, 3, 64, 64)
    with torch.inference_mode():
        expected = load_frame_encoder(str(encoder), 64).eval()(pictures)
        look_at("http://127.0.0.1:9", tmp_path / "nothing", monkeypatch)
        monkeypatch.setenv("REACTOMETER_WEIGHTS", str(bundled))
        there = load_frame_encoder(NAME, 64).eval()(pictures)
    assert torch.equal(there, expected)
    assert find_held(NAME).place == OFFLINE


def test_a_zip_holds_what_the_folder_holds(bundled: Path, tmp_path: Path) -> None:
    bundle(tmp_path / "bundle.zip", ["tiny", NAME])
    with ZipFile(tmp_path / "bundle.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            str(path.relative_to(bundled)): path.read_bytes() for path in bundled.rglob("*") if path.is_file()
        }
    for target in (bundled, tmp_path / "bundle.zip"):
        checked = verify(target)
        assert [one.path for one in checked] == [str(target / path) for path in FILES]
        assert [one.problem for one in checked] == [""] * 4


def test_without_names_all_that_is_here_goes_in_also_from_another_bundle(
    bundled: Path, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(bundled))
    machine.unlink()
    assert [held.name for held in bundle(tmp_path / "second")] == ["tiny", NAME]
    for path in FILES:
        assert (tmp_path / "second" / path).read_bytes() == (bundled / path).read_bytes()
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(tmp_path / "second"))
    assert [one.compared for one in verify()] == [True] * 5  # and the model inside the package


def test_a_damaged_or_missing_file_is_named(bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = bundled / FOLDER / "model.safetensors"
    damage(weights)
    (bundled / "tiny.onnx").unlink()
    wrong = {one.path: one.problem for one in verify(bundled) if one.problem}
    assert list(wrong) == [str(bundled / "tiny.onnx"), str(weights)]
    assert wrong[str(bundled / "tiny.onnx")] == "it is not there"
    expected = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert wrong[str(weights)].startswith(f"its SHA-256 is {expected}, not ")
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(bundled))
    assert {one.path: one.problem for one in verify() if one.problem} == wrong
    with pytest.raises(WeightsError, match=r"model\.safetensors.*SHA-256"):
        bundle(tmp_path / "more", [NAME])
    assert not (tmp_path / "more").exists()


DEEP = '{"files": ' + 100_000 * "[" + 100_000 * "]" + "}"


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"files": []}', '{"files": {"a": {}}}', DEEP])
def test_a_bundle_whose_manifest_says_nothing_is_wrong(bundled: Path, manifest: str) -> None:
    (bundled / "manifest.json").write_text(manifest)
    [checked] = verify(bundled)
    assert checked.path == str(bundled / "manifest.json")
    assert checked.problem.startswith("not a bundle's manifest: ")


def test_a_zip_that_is_cut_off_or_damaged_is_wrong(machine: Path, tmp_path: Path) -> None:
    bundle(tmp_path / "a.zip", ["tiny"])
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(content[: len(content) // 2])
    assert [one.path for one in verify(tmp_path / "b.zip") if one.problem] == [str(tmp_path / "b.zip")]
    (tmp_path / "b.zip").write_bytes(content.replace(CONTENT, CONTENT[:-1] + b"?"))
    assert [one.path for one in verify(tmp_path / "b.zip") if one.problem] == [str(tmp_path / "b.zip" / "tiny.onnx")]


@pytest.mark.parametrize("name", ["tiny.onnx", "manifest.json"])
@pytest.mark.parametrize(("place", "bits"), [(0, 1), (2, 0x61)], ids=["encrypted", "packed in an unknown way"])
def test_a_zip_that_was_packed_in_another_way_is_wrong(
    machine: Path, name: str, place: int, bits: int, tmp_path: Path
) -> None:
    """A file's flags and method stand twice: before it, and in the list at the end."""
    content = bytearray(_packed_anew(tmp_path, first=name))
    for start in (6, content.index(b"PK\1\2") + 8):
        content[start + place] |= bits
    (tmp_path / "b.zip").write_bytes(content)
    assert [one.path for one in verify(tmp_path / "b.zip") if one.problem] == [str(tmp_path / "b.zip" / name)]


@pytest.mark.parametrize("name", ["tiny.onnx", "manifest.json"])
def test_a_compressed_file_that_is_damaged_is_wrong(machine: Path, name: str, tmp_path: Path) -> None:
    content = bytearray(_packed_anew(tmp_path, first=name))
    content[30 + len(name) : 40 + len(name)] = b"?" * 10
    (tmp_path / "b.zip").write_bytes(content)
    assert [one.path for one in verify(tmp_path / "b.zip") if one.problem] == [str(tmp_path / "b.zip" / name)]


def _packed_anew(folder: Path, first: str) -> bytes:
    """A bundle that somebody has packed again, compressed, which ours are not; its files from ``first`` on."""
    bundle(folder / "a", ["tiny"])
    with ZipFile(folder / "b.zip", "w", ZIP_DEFLATED) as archive:
        for file in sorted((folder / "a").iterdir(), key=lambda file: file.name != first):
            archive.write(file, file.name)
    return (folder / "b.zip").read_bytes()


def test_what_is_there_is_not_written_over_and_nothing_half_made_stays(
    hub: SmallHub, machine: Path, tmp_path: Path
) -> None:
    for out in (tmp_path / "out", tmp_path / "out.zip"):
        with pytest.raises(WeightsError, match="cannot fetch 'nobody/nothing'"):
            bundle(out, ["tiny", "nobody/nothing"])
        with pytest.raises(ConfigError, match="Did you mean 'tiny'"):
            bundle(out, ["tinny"])
        bundle(out, ["tiny"])
        with pytest.raises(OutputError, match=f"{out.name}: exists already"):
            bundle(out, ["tiny"])
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.zip", "cache"}
    machine.unlink()
    with pytest.raises(WeightsError, match="no weights"):
        bundle(tmp_path / "none")


def test_an_encoder_without_weights_is_not_handed_on(
    machine: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own" / FOLDER).mkdir(parents=True)
    (tmp_path / "own" / FOLDER / "config.json").write_bytes((encoder / "config.json").read_bytes())
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(tmp_path / "own"))
    assert NAME in known_names()
    with pytest.raises(WeightsError, match=rf"{FOLDER}.*model\.safetensors"):
        bundle(tmp_path / "out")
    assert "it is not there" in [one.problem for one in verify()]
    assert fetch(["tiny"])[1] == []


def test_what_is_neither_a_bundle_nor_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(WeightsError, match="nowhere"):
        verify(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match=r"file\.txt"):
        verify(tmp_path / "file.txt")
    with pytest.raises(ModelError, match=r"model\.json"):
        verify(tmp_path)
