"""Weights by name: what is listed, what comes from a real HTTP server, and what never counts as here."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_hub import SmallHub, look_at, running_hub
from small_weights import NAME, WANTED, damage, only_tiny, small_encoder

from reactometer.errors import ConfigError, WeightsError
from reactometer.models import store
from reactometer.models.backbones import PREPARATION_FILES
from reactometer.models.pretrained import ENCODER_FILES, PRETRAINED
from reactometer.models.store import HUB_CACHE, NOWHERE, fetch, fetch_one, find_held, known_names, list_weights
from reactometer.models.verify import verify
from reactometer.paths import CACHE, OFFLINE, STARTER


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has one small file of weights, which is returned."""
    return only_tiny(tmp_path / "cache", monkeypatch)


@pytest.fixture
def stocked(machine: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    """A Hub that has the encoder, for that machine."""
    assert machine.is_file()
    with running_hub(tmp_path / "hub", monkeypatch) as hub:
        hub.put(NAME, encoder)
        yield hub


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's client waits a second before each new try."""
    monkeypatch.setattr(time, "sleep", lambda _: None)


def test_the_list_says_what_is_here_without_a_word_to_the_network(stocked: SmallHub, machine: Path) -> None:
    listed = {held.name: held for held in list_weights()}
    assert list(listed) == ["tiny", *PRETRAINED]
    assert (listed["tiny"].place, listed["tiny"].files) == (CACHE, (machine,))
    assert {listed[name].place for name in PRETRAINED} == {NOWHERE}
    assert all(held.licence and held.source for held in listed.values())
    assert stocked.asked == []


def test_an_encoder_is_fetched_once_and_only_the_files_that_it_needs(stocked: SmallHub, encoder: Path) -> None:
    assert find_held(NAME).files == ()
    [held], failed = fetch([NAME])
    assert failed == []
    assert held.place == HUB_CACHE
    assert [file.name for file in held.files] == WANTED
    assert [file.read_bytes() for file in held.files] == [(encoder / name).read_bytes() for name in WANTED]
    assert held.size_bytes == sum((encoder / name).stat().st_size for name in WANTED)
    fetched = {path.rpartition("/")[2] for method, path, _ in stocked.asked if "/resolve/" in path}
    assert fetched == set(WANTED)
    stocked.asked.clear()
    assert fetch([NAME]) == ([held], [])
    assert stocked.asked == []


def test_the_files_of_an_encoder_are_those_that_are_read() -> None:
    assert all(any(Path(name).match(pattern) for pattern in ENCODER_FILES) for name in PREPARATION_FILES)


def test_a_cut_connection_is_taken_up_again(stocked: SmallHub, encoder: Path, no_waiting: None) -> None:
    stocked.cuts["model.safetensors"] = [1000]
    held = fetch_one(find_held(NAME))
    assert (held.files[0].parent / "model.safetensors").read_bytes() == (encoder / "model.safetensors").read_bytes()
    assert stocked.cuts["model.safetensors"] == []


def test_a_download_that_is_always_cut_leaves_nothing(stocked: SmallHub, no_waiting: None, tmp_path: Path) -> None:
    stocked.cuts["model.safetensors"] = [1000, *[0] * 9]
    with pytest.raises(WeightsError, match=f"cannot fetch '{NAME}' from {stocked.url}"):
        fetch_one(find_held(NAME))
    assert find_held(NAME).place == NOWHERE
    assert list((tmp_path / "hub").rglob("*.safetensors")) == []
    stocked.cuts.clear()
    assert fetch_one(find_held(NAME)).place == HUB_CACHE


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_comes_damaged_is_not_kept(stocked: SmallHub, name: str) -> None:
    stocked.damaged.add(name)
    with pytest.raises(WeightsError, match=rf"{name}.*SHA-\d+"):
        fetch_one(find_held(NAME))
    assert find_held(NAME).place == NOWHERE
    stocked.damaged.clear()
    assert fetch_one(find_held(NAME)).place == HUB_CACHE


def test_a_file_damaged_later_is_found_and_fetched_again(stocked: SmallHub, encoder: Path) -> None:
    held = fetch_one(find_held(NAME))
    weights = held.files[WANTED.index("model.safetensors")]
    content = weights.read_bytes()
    damage(weights)
    assert weights.read_bytes() != content
    [again], failed = fetch([NAME])
    assert (again.files, failed) == (held.files, [])
    assert weights.read_bytes() == content == (encoder / "model.safetensors").read_bytes()


def test_what_is_here_is_verified_wherever_it_lies(
    stocked: SmallHub, machine: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PRETRAINED", {NAME: PRETRAINED["microsoft/resnet-50"]})
    fetch([NAME])
    offline = tmp_path / "offline"
    (offline / "own--net").mkdir(parents=True)
    for name in WANTED:
        (offline / "own--net" / name).write_bytes((encoder / name).read_bytes())
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(offline))
    assert "own/net" in known_names()
    assert find_held("own/net").place == OFFLINE
    shipped, *fetched = verify()
    assert shipped.path == str(STARTER)
    checked = {Path(one.path).relative_to(tmp_path).parts[0]: one for one in fetched}
    assert [one.problem for one in (shipped, *fetched)] == [""] * 8
    assert (checked["cache"].compared, checked["hub"].compared, checked["offline"].compared) == (True, True, False)
    machine.write_bytes(b"something else")
    (offline / "own--net" / "model.safetensors").write_bytes(b"cut off")
    wrong = {one.path: one.problem for one in verify() if one.problem}
    assert list(wrong) == [str(machine), str(offline / "own--net" / "model.safetensors")]
    assert "its SHA-256 is" in wrong[str(machine)]
    (offline / "own--net" / "model.safetensors").unlink()
    assert "it is not there" in [one.problem for one in verify()]


def test_one_that_cannot_be_had_does_not_keep_the_others_from_coming(stocked: SmallHub) -> None:
    fetched, [message] = fetch(["microsoft/resnet50", NAME, "tiny"])
    assert [held.name for held in fetched] == [NAME, "tiny"]
    assert "got no such repository" in message
    assert "Did you mean 'microsoft/resnet-50'?" in message
    assert "\n" not in message


def test_an_unknown_name_is_told_of_before_anything_is_fetched(stocked: SmallHub) -> None:
    with pytest.raises(ConfigError, match=r"tinny.*'tiny'"):
        fetch([NAME, "tinny"])
    assert stocked.asked == []


@pytest.mark.parametrize("name", ["a--b/c", "-a/b", "a/b.git", "a/..b"])
def test_a_name_that_no_repository_has_is_told_of(stocked: SmallHub, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{name}'.*OWNER/NAME"):
        fetch([name])
    assert stocked.asked == []


def test_a_folder_that_is_no_encoders_is_passed_over(
    machine: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(tmp_path / "own"))
    for folder in ("my nets--v1", "a--b--c"):
        shutil.copytree(encoder, tmp_path / "own" / folder)
    assert [held.name for held in list_weights()] == ["tiny", *PRETRAINED, "a/b--c"]
    assert find_held("a/b--c").place == OFFLINE


def test_a_repository_of_pickles_only_is_refused(stocked: SmallHub, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    stocked.put("old/net", tmp_path / "old")
    with pytest.raises(WeightsError, match=r"'old/net'.*model\.safetensors"):
        fetch_one(find_held("old/net"))
    assert not [path for _, path, _ in stocked.asked if path.endswith(".bin")]


def test_without_a_network_it_says_so_in_one_line(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_at("http://127.0.0.1:9", tmp_path / "hub", monkeypatch)
    _, [message] = fetch([NAME])
    assert message.startswith(f"cannot fetch '{NAME}' from http://127.0.0.1:9 (got ")
    assert "Check the network" in message
    assert "\n" not in message
