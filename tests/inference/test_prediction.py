"""Predictions in a notebook: one file or many, values by name, tables, curves, and arrays as input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from reactometer import load_model
from reactometer.errors import ConfigError, DataError, MediaError, OutputError
from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.prediction import Batch, Prediction, Timeline, Window
from reactometer.labels import BASIC, EMI, HUME_REACTION, colours_of
from reactometer.media.arrays import check_arrays
from reactometer.media.audio import read_waveform
from reactometer.types import SOUND_RATE_HZ

pytestmark = pytest.mark.usefixtures("found_once")


@pytest.fixture(scope="module")
def model(model_folder: Path) -> LoadedModel:
    return load_model(model_folder)


@pytest.fixture(scope="module")
def video(simulated: Path) -> Path:
    return min((simulated / "test" / "mp4").iterdir())


@pytest.fixture(scope="module")
def clip(model: LoadedModel, video: Path) -> Prediction:
    return model.predict(video, window_s=0.5, hop_s=0.25)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "broken.mp4").write_text("not a video")
    return tmp_path / "broken.mp4"


def test_one_file_has_one_prediction_and_several_have_a_batch(model: LoadedModel, video: Path) -> None:
    one = model.predict(str(video), timeline=False)
    several = model.predict([video, video.parent / "*1.mp4"], timeline=False, progress=False)
    folder: Any = model.predict(video.parent, timeline=False, progress=False)
    assert isinstance(one, Prediction)
    assert isinstance(several, Batch)
    assert several[0] == one
    assert len(folder) == len(list(video.parent.iterdir()))
    assert [prediction.path for prediction in folder[:2]] == [folder[0].path, folder[1].path]


def test_an_unreadable_file_raises_alone_and_is_collected_among_others(
    model: LoadedModel, video: Path, broken: Path
) -> None:
    with pytest.raises(MediaError, match=r"broken\.mp4"):
        model.predict(broken)
    batch = model.predict([broken, video], progress=False)
    assert [prediction.path for prediction in batch.failed] == [str(broken)]
    assert batch.to_pandas()["status"][1] == "ok"
    with pytest.raises(MediaError):
        model.predict([video, broken], on_error="raise", progress=False)
    assert model.predict(broken, on_error="collect").failed
    with pytest.raises(ConfigError, match="on_error"):
        model.predict(video, on_error="ignore")  # type: ignore[call-overload]
    with pytest.raises(DataError, match="nowhere"):
        model.predict("nowhere.mp4")


def test_intensities_are_found_by_name(clip: Prediction) -> None:
    assert clip.intensities
    for index, label in enumerate(clip.labels):
        value, low, high, peak, peak_s = clip[label]
        assert value == clip.intensities[index]
        assert math.isnan(low)
        assert math.isnan(high)  # this model has no intervals
        assert peak == clip.timeline[label].max()
        assert peak_s == clip.timeline.times_s[clip.timeline[label].argmax()]
    with pytest.raises(DataError, match="Did you mean 'Surprise'"):
        clip["Surprize"]


def test_the_timeline_is_cut_summarised_and_a_table(clip: Prediction) -> None:
    timeline = clip.timeline
    frame = timeline.to_pandas()
    assert frame.index.name == "time_s"
    np.testing.assert_allclose(frame[list(clip.labels)], timeline.values)
    part = timeline.between(0.3, 0.8)
    assert part.times_s.tolist() == [time_s for time_s in timeline.times_s.tolist() if 0.3 <= time_s < 0.8]
    assert part.mean() == pytest.approx(frame.loc[0.3:0.8, list(clip.labels)].mean().to_dict())
    assert timeline.max() == pytest.approx(frame[list(clip.labels)].max().to_dict())
    assert all(map(math.isnan, timeline.between(90.0, 99.0).mean().values()))


def test_windows_without_values_count_for_nothing() -> None:
    windows = Window(0.0, 1.0, 1.0, (0.2,)), Window(1.0, 2.0, 0.0, None), Window(2.0, 3.0, 1.0, (0.4,))
    assert Timeline(("Joy",), windows).mean() == pytest.approx({"Joy": 0.3})


def test_tables_have_a_row_per_emotion_or_file(model: LoadedModel, clip: Prediction, video: Path) -> None:
    frame = clip.to_pandas()
    assert frame["peak"].is_monotonic_decreasing
    assert set(frame.index) == set(HUME_REACTION)
    assert frame["value"]["Surprise"] == clip["Surprise"].value
    everyone = model.predict(video, faces="all", timeline=False, progress=False)  # a batch: one per person
    assert everyone.to_pandas()["face"].tolist() == [1]


def test_curves_are_drawn_into_axes(clip: Prediction) -> None:
    axes: Any = clip.plot("Surprise", "Fear")
    shown = [line for line in axes.lines if len(line.get_xdata()) == len(clip.windows)]
    np.testing.assert_allclose(shown[0].get_ydata(), clip.timeline["Surprise"])
    assert {text.get_text() for text in axes.texts} == {"Surprise", "Fear"}
    plt.close(axes.figure)
    with pytest.raises(OutputError, match="timeline"):
        Prediction("clip.mp4", "failed: no such file", BASIC).plot()


def test_predictions_are_saved_as_files(
    model: LoadedModel, clip: Prediction, broken: Path, tmp_path: Path
) -> None:
    clip.save(tmp_path / "one", ["events", "plot", "elan", "vtt"], threshold=0.1)
    names = {str(file.relative_to(tmp_path / "one")) for file in (tmp_path / "one").rglob("*.*")}
    stem = Path(clip.path).stem
    assert names == {"files.csv", "events.csv", f"plot/{stem}.png", f"elan/{stem}.eaf", f"vtt/{stem}.vtt"}
    batch = model.predict([clip.path, broken], progress=False)
    batch.save(tmp_path / "two")
    assert len(pd.read_csv(tmp_path / "two" / "files.csv")) == 2
    assert len(pd.read_csv(tmp_path / "two" / "timeline.csv")) == len(batch[0].windows)
    with pytest.raises(ConfigError, match="plot"):
        clip.save(tmp_path, ["plots"])


def test_notebooks_show_predictions(model: LoadedModel, clip: Prediction, broken: Path) -> None:
    html = clip._repr_html_()
    assert all(label in html for label in clip.labels)
    assert html.count("<svg") == len(clip.labels)
    assert clip.labels[clip.strongest[0]] in repr(clip)
    assert "Fear" in clip.timeline._repr_html_()
    batch = model.predict([broken], progress=False)
    assert "broken.mp4" in batch._repr_html_()
    assert "1 failed" in repr(batch)
    assert "<script>" not in Prediction("<script>.mp4", "failed: <script>", BASIC)._repr_html_()
    assert "face and voice" in repr(model)
    assert set(clip._ipython_key_completions_()) == set(clip.labels)


def test_arrays_have_the_prediction_of_their_file(model: LoadedModel, video: Path, clip: Prediction) -> None:
    with av.open(str(video)) as container:
        decoded = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    times_s, frames = zip(*decoded, strict=True)
    sound = read_waveform(video)
    from_arrays = model.predict_arrays(
        np.stack(frames), times_s=np.array(times_s) - times_s[0], sound=sound, window_s=0.5, hop_s=0.25
    )
    np.testing.assert_allclose(from_arrays.timeline.values, clip.timeline.values, atol=1e-5)
    assert from_arrays.intensities == pytest.approx(clip.intensities, abs=1e-5)


def test_sound_of_any_rate_and_type_is_accepted() -> None:
    time_s = np.arange(44_100 * 2) / 44_100
    tone = (np.sin(2 * np.pi * 440 * time_s) * 20_000).astype(np.int16)
    expected = np.sin(2 * np.pi * 440 * np.arange(SOUND_RATE_HZ) / SOUND_RATE_HZ) * 20_000 / 2**15
    for sound in (tone, np.stack([tone, tone], axis=1) / 2**15):
        media = check_arrays(None, None, None, sound, 44_100, "tone")
        assert media.waveform is not None
        assert len(media.waveform) == pytest.approx(2 * SOUND_RATE_HZ, abs=20)
        np.testing.assert_allclose(media.waveform[100:15_000], expected[100:15_000], atol=0.01)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "neither"),
        ({"frames": np.zeros((4, 8, 8), np.uint8), "frames_per_s": 5}, "shape"),
        ({"frames": np.zeros((4, 8, 8, 3)), "frames_per_s": 5}, "data type"),
        ({"frames": np.zeros((4, 8, 8, 3), np.uint8)}, "times of the frames are unknown"),
        ({"frames": np.zeros((2, 8, 8, 3), np.uint8), "times_s": [0.1, 0.0]}, "increasing"),
        ({"frames": np.zeros((2, 8, 8, 3), np.uint8), "times_s": [0.1]}, "times"),
        ({"sound": np.full(100, 3.0)}, "range"),
        ({"sound": np.array(["a"])}, "data type"),
        ({"sound": np.zeros(0)}, "shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(model: LoadedModel, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        model.predict_arrays(**arrays)


def test_the_colours_of_a_label_set_differ() -> None:
    for labels in (BASIC, EMI, HUME_REACTION, tuple("ABCDEFG"), ("Fear", "Boredom")):
        assert len(set(colours_of(labels))) == len(set(colours_of(labels, on_dark=True))) == len(labels)
    assert colours_of(BASIC)[BASIC.index("Fear")] == colours_of(HUME_REACTION)[HUME_REACTION.index("Fear")]
