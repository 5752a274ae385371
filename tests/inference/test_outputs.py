"""Outputs of a prediction: ELAN documents, subtitles, overlay videos, and their paths."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import av
import numpy as np
import pytest

from reactometer.inference.elan_vtt import write_elan, write_subtitles
from reactometer.inference.outputs import unique_names, write_outputs
from reactometer.inference.overlay import write_overlay
from reactometer.inference.prediction import Prediction, Window
from reactometer.inference.predictor import predict_files


def _prediction(path: Path) -> Prediction:
    values = [(0.1, 0.2), (0.8, 0.2), None, (0.7, 0.05)]
    shares = [1.0, 1.0, 0.0, 0.0]
    windows = tuple(
        Window(float(index), min(index + 2.0, 4.4), share, value)
        for index, (value, share) in enumerate(zip(values, shares, strict=True))
    )
    notes = ("smoothed: Hann-weighted mean over 2 s",)
    return Prediction(
        str(path), "ok", ("Joy & fun", "Fear"), 4.4, 0.5, True, (0.4, 0.1), windows, notes=notes
    )


def test_an_elan_document_has_one_tier_per_emotion_and_one_without_face(tmp_path: Path) -> None:
    prediction = _prediction(tmp_path / "my clip.mp4")
    root = ElementTree.parse(write_elan([prediction], 0.5, tmp_path / "a.eaf")).getroot()
    times = {slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE", "")) for slot in root.iter("TIME_SLOT")}
    tiers = {
        tier.get("TIER_ID"): [
            (
                times[one.get("TIME_SLOT_REF1")],
                times[one.get("TIME_SLOT_REF2")],
                one.findtext("ANNOTATION_VALUE"),
            )
            for one in tier.iter("ALIGNABLE_ANNOTATION")
        ]
        for tier in root.iter("TIER")
    }
    assert list(tiers) == [
        "Joy & fun",
        "Fear",
        "Joy & fun (intensity)",
        "Fear (intensity)",
        "no face",
        "notes",
    ]
    assert tiers["Joy & fun"] == [(1571, 2500, "0.80"), (3350, 4400, "0.70")]
    assert tiers["Fear"] == []
    assert tiers["Fear (intensity)"] == [(0, 1500, "0.20"), (1500, 2500, "0.20"), (3350, 4400, "0.05")]
    assert tiers["no face"] == [(2500, 3350, "no face"), (3350, 4400, "no face")]
    for spans in tiers.values():
        assert all(start < end for start, end, _ in spans)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    names = [one.get("ANNOTATION_ID") for one in root.iter("ALIGNABLE_ANNOTATION")]
    assert len(names) == len(set(names))
    (media,) = root.iter("MEDIA_DESCRIPTOR")
    assert media.get("RELATIVE_MEDIA_URL") == "./my clip.mp4"
    assert str(media.get("MEDIA_URL")).startswith("file:///")


def _faces(path: Path) -> list[Prediction]:
    return [replace(_prediction(path), face=number) for number in (1, 2)]


def test_an_elan_document_has_tiers_per_face(tmp_path: Path) -> None:
    people = _faces(tmp_path / "a.mp4")
    root = ElementTree.parse(write_elan(people, 0.5, tmp_path / "a.eaf")).getroot()
    tiers = {tier.get("TIER_ID"): tier.get("PARTICIPANT") for tier in root.iter("TIER")}
    assert list(tiers)[:2] == ["face 1: Joy & fun", "face 1: Fear"]
    assert list(tiers)[-2:] == ["face 2: no face", "face 2: notes"]
    assert list(tiers.values()) == ["face 1"] * 6 + ["face 2"] * 6
    names = [one.get("ANNOTATION_ID") for one in root.iter("ALIGNABLE_ANNOTATION")]
    assert len(names) == len(set(names)) > 0


def test_subtitles_sort_emotions_and_mark_missing_faces(tmp_path: Path) -> None:
    text = write_subtitles(_prediction(tmp_path / "a.mp4"), tmp_path / "a.vtt").read_text()
    assert text.startswith("WEBVTT\n\nNOTE smoothed")
    cues = re.findall(r"(\S+) --> (\S+)\n(.*)\n", text)
    assert [cue[2] for cue in cues] == [
        "Fear 0.20, Joy & fun 0.10",
        "Joy & fun 0.80, Fear 0.20",
        "no face",
        "no face; Joy & fun 0.70",
    ]
    assert cues[1][:2] == ("00:00:01.500", "00:00:02.500")
    assert cues[-1][1] == "00:00:04.400"


@pytest.fixture(scope="module")
def real(shared_data: Path, model_folder: Path) -> Prediction:
    """Predict a real clip of variable frame rate."""
    (prediction,) = predict_files([shared_data / "clips" / "face_noface.mov"], model_folder, progress=False)
    return prediction


@pytest.mark.slow
@pytest.mark.shared
def test_an_overlay_keeps_every_frame_at_its_time_and_the_sound(real: Prediction, tmp_path: Path) -> None:
    written = write_overlay([real], tmp_path / "a.mp4")
    made: Any
    with av.open(real.path) as source, av.open(str(written)) as made:
        expected = [frame.time for frame in source.decode(video=0)]
        frames = list(made.decode(video=0))
        assert [frame.time - frames[0].time for frame in frames] == pytest.approx(
            [time - expected[0] for time in expected], abs=0.002
        )
        assert frames[0].width >= 640
        assert made.streams.audio[0].duration * made.streams.audio[0].time_base == pytest.approx(6.4, abs=0.2)
        panel = frames[0].to_ndarray(format="rgb24")[-26 * len(real.labels) :]
    assert panel.mean() > 200  # white, with names and lines
    assert panel.min() < 100
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.shared
def test_an_overlay_of_several_faces_has_a_panel_of_each(
    real: Prediction, shared_data: Path, tmp_path: Path
) -> None:
    path = str(shared_data / "clips" / "single_face.mp4")  # the shortest
    people = [replace(real, path=path, face=number) for number in (1, 2)]
    made: Any
    with av.open(str(write_overlay(people, tmp_path / "a.mp4"))) as made, av.open(path) as source:
        frame_of_source: Any = next(source.decode(video=0))
        frame = next(made.decode(video=0))
    rows = 26 * (1 + len(real.labels))
    assert frame.height - 2 * rows == round(frame_of_source.height * frame.width / frame_of_source.width)
    first, second = np.split(frame.to_ndarray(format="rgb24")[-2 * rows :], 2)
    assert np.abs(first[26:].astype(int) - second[26:]).mean() < 2  # but for the number, they say the same
    assert np.abs(first[:26].astype(int) - second[:26]).max() > 100


@pytest.mark.slow
@pytest.mark.shared
def test_outputs_of_all_faces_name_the_face(real: Prediction, tmp_path: Path) -> None:
    """Plots and subtitles are per face, ELAN documents and overlays per file."""
    people = [replace(real, face=number) for number in (1, 2)]
    write_outputs(people, tmp_path, "clip", ("plot", "vtt", "elan"), 0.01)
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    assert written == {
        *(
            f"{kind}/clip-face-{face}.{ending}"
            for face in (1, 2)
            for kind, ending in (("plot", "png"), ("vtt", "vtt"))
        ),
        "elan/clip.eaf",
    }


def test_two_files_of_one_name_have_separate_outputs() -> None:
    assert list(unique_names(["a/clip.mp4", "b/clip.mov", "b/my clip.mp4"])) == ["clip", "clip-2", "my_clip"]


def test_a_sound_file_has_no_overlay(tmp_path: Path) -> None:
    write_outputs([_prediction(tmp_path / "a.wav")], tmp_path, "a", ("overlay",), 0.5)
    assert not list(tmp_path.iterdir())
