"""Live windows equal windows of a file, and a slow scorer drops frames."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from live_clips import packets_of, until
from reactometer.errors import ConfigError
from reactometer.inference.checkpoint import LoadedModel, load_model
from reactometer.inference.predictor import predict_files
from reactometer.live.protocol import Packet, PacketKind
from reactometer.live.scorer import AudioRingBuffer, LiveScorer, level_of
from reactometer.live.session import FrameQueue, live_rows, run_session
from reactometer.types import SOUND_RATE_HZ, ByteArray, FloatArray

pytestmark = pytest.mark.usefixtures("found_once")


@pytest.fixture(scope="module")
def video(simulated: Path) -> Path:
    return sorted((simulated / "test" / "mp4").iterdir())[0]


def fed(scorer: LiveScorer, packets: list[Packet]) -> LiveScorer:
    for packet in packets:
        scorer.push(packet)
    return scorer


def blank(value: int = 0) -> Callable[[], ByteArray]:
    return lambda: np.full((48, 64, 3), value, np.uint8)


def sound(start_s: float, length_s: float, level: float = 0.1) -> Packet:
    samples = np.full(round(length_s * SOUND_RATE_HZ), level, np.float32)
    return Packet(PacketKind.SOUND, start_s, samples)


def compare_with_timeline(
    model: LoadedModel, path: Path, rate_hz: float, window_s: float, hop_s: float
) -> int:
    """Check that live and offline scores of all complete windows are equal; return the number of windows.

    The live scorer gets all frames of the model's rate, and its windows end with the file's. Otherwise crops,
    and even the tracked face, could differ.
    """
    (offline,) = predict_files([path], model, window_s=window_s, hop_s=hop_s, progress=False)
    packets, scorer, compared = packets_of(path, rate_hz), LiveScorer(model, window_s, rate_hz), 0
    for window in offline.windows:
        if window.end_s - window.start_s < window_s - 1e-6:
            continue  # the file's last, cut short
        ready = until(packets, window.end_s)
        packets = packets[len(ready) :]
        score = fed(scorer, ready).score(window.end_s)
        assert score is not None
        assert score.start_s == pytest.approx(window.start_s)
        assert score.face_share == window.face_share
        assert (score.intensities is None) == (window.intensities is None)
        np.testing.assert_allclose(score.intensities or (), window.intensities or (), atol=1e-4)
        compared += 1
    return compared


def test_a_live_window_equals_the_timeline(starter: LoadedModel, model_folder: Path, video: Path) -> None:
    assert compare_with_timeline(starter, video, starter.config.prepare.rate_hz or 0.0, 0.5, 0.25) >= 3
    trained = load_model(model_folder, "cpu")  # another network: log-mel, nothing frozen
    assert compare_with_timeline(trained, video, trained.config.prepare.rate_hz or 0.0, 0.5, 0.5) >= 2


@pytest.mark.slow
@pytest.mark.shared
def test_a_live_window_equals_the_timeline_on_a_real_clip(starter: LoadedModel, shared_data: Path) -> None:
    assert compare_with_timeline(starter, shared_data / "clips" / "face_noface.mov", 5.0, 2.0, 1.0) >= 4


def test_a_window_without_input_has_no_score(starter: LoadedModel) -> None:
    scorer = LiveScorer(starter, 1.0)
    assert scorer.score() is None
    score = fed(scorer, [Packet(PacketKind.FRAME, 0.0, blank()), sound(0.0, 0.2, level=0.0)]).score()
    assert score is not None
    assert (score.intensities, score.face, score.face_share, score.level_db) == (None, None, 0.0, None)
    assert score.warnings == "no visible face and no audible sound"
    unreadable = fed(scorer, [Packet(PacketKind.FRAME, 0.1, lambda: None)]).score()
    assert unreadable is not None
    assert unreadable.intensities is None


def test_only_the_last_window_stays_in_memory(starter: LoadedModel, video: Path) -> None:
    scorer, packets = LiveScorer(starter, 0.5), packets_of(video, 10.0)
    for turn in range(4):  # as if the clip went on and on
        fed(scorer, [replace(packet, time_s=packet.time_s + turn * 1.5) for packet in packets])
    score = scorer.score()
    assert score is not None
    assert score.end_s - score.start_s == pytest.approx(0.5)
    assert score.end_s == pytest.approx(score.time_s, abs=1e-3)
    assert len(scorer.samples) <= 16
    assert len(scorer.sound.samples) <= 1.5 * SOUND_RATE_HZ
    early = fed(scorer, [Packet(PacketKind.FRAME, 0.0, blank())]).score()  # another clock
    assert early is not None
    assert early.time_s == 0.0
    assert len(scorer.samples) == 1
    assert early.warnings == "no visible face and no audible sound"
    early = fed(scorer, [sound(0.0, 0.1)]).score()
    assert early is not None
    assert (early.warnings or "").startswith("0.1 of 0.5 s so far")
    with pytest.raises(ConfigError, match="window"):
        LiveScorer(starter, 0.0)


def test_sound_is_placed_by_its_time() -> None:
    buffer = AudioRingBuffer(1.0)
    ramp: FloatArray = np.arange(1, 801, dtype=np.float32) / np.float32(1000)
    buffer.add(10.0, ramp)
    buffer.add(10.0505, ramp)  # 8 samples late: rounding
    assert buffer.end_s == pytest.approx(10.1)
    buffer.add(10.3, ramp)  # a hole
    buffer.add(10.2, ramp)  # too late, and known
    waveform = buffer.between(10.0, 11.0)
    assert waveform is not None
    assert len(waveform) == round(0.35 * SOUND_RATE_HZ)
    assert not waveform[1600:4800].any()
    assert waveform[1599] == pytest.approx(0.8, abs=1e-4)
    buffer.add(99.0, ramp)  # nothing of before is left
    assert buffer.between(0.0, 98.0) is None
    assert buffer.between(98.9, 99.05) is not None
    assert level_of(np.full(1600, 0.1, np.float32)) == pytest.approx(-20.0, abs=0.01)


def test_the_newest_frame_wins() -> None:
    inbox = FrameQueue(rate_hz=10.0)
    for number in range(10):  # 25 a second, of which 10 are wanted
        inbox.put(Packet(PacketKind.FRAME, number / 25, blank(number)))
        inbox.put(sound(number / 25, 0.04))
    packets = inbox.get_all(0.0)
    assert [packet.kind for packet in packets] == [*[PacketKind.SOUND] * 10, PacketKind.FRAME]
    assert packets[-1].time_s == 8 / 25  # at 0, .12, .2 and .32
    assert inbox.dropped == 3
    assert inbox.get_all(0.0) == []
    inbox.put(Packet(PacketKind.FRAME, 500.0, blank()))
    inbox.put(Packet(PacketKind.FRAME, 0.0, blank(7)))  # another clock
    (packet,) = inbox.get_all(0.0)
    assert packet.time_s == 0.0


def test_a_slow_scorer_drops_frames_and_scores_the_newest(starter: LoadedModel) -> None:
    """While a frame is decoded, three more arrive; the last of them is scored next."""
    inbox, scorer, numbers = FrameQueue(rate_hz=50.0), LiveScorer(starter, 1.0), iter(range(1, 31))

    def decode() -> ByteArray:
        coming = list(islice(numbers, 3))
        for number in coming:
            inbox.put(Packet(PacketKind.FRAME, number / 50, decode))
        if not coming:
            inbox.close()
        return np.zeros((48, 64, 3), np.uint8)

    inbox.put(Packet(PacketKind.FRAME, 0.0, decode))
    scores = list(run_session(scorer, inbox))
    assert [round(50 * (one.frame_s or 0.0)) for one in scores] == list(range(0, 31, 3))
    assert scores[-1].dropped == inbox.dropped == 20


def test_latency_counts_from_the_arrival_of_the_newest_frame(starter: LoadedModel) -> None:
    inbox, now_s = FrameQueue(rate_hz=10.0), time.monotonic()
    inbox.put(Packet(PacketKind.FRAME, 1.0, blank(), now_s - 5.0))
    inbox.put(replace(sound(0.0, 0.1), arrived_s=now_s - 99.0))
    inbox.close()
    (score,) = run_session(LiveScorer(starter), inbox)
    assert 5.0 <= score.latency_s < 99.0


def test_rows_are_written_immediately(starter: LoadedModel, video: Path, tmp_path: Path) -> None:
    score = fed(LiveScorer(starter), packets_of(video, 5.0)).score()
    assert score is not None
    with live_rows(tmp_path / "live.csv", starter.labels) as write_row:
        write_row(replace(score, latency_s=0.0123, dropped=4))
        write_row(replace(score, intensities=None, face=None))
        header, first, _ = (tmp_path / "live.csv").read_text().splitlines()
    assert "12.3" in first
    assert header.endswith(",latency_ms")
