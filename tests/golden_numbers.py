"""Golden numbers: results of this version on fixed inputs, in tests/golden; test_golden.py compares them.

    python tests/golden_numbers.py            # compare; exit status 1 if a number is beyond its tolerance
    python tests/golden_numbers.py --write    # write the changes, and print the line for CHANGELOG.md

``formulas.json`` has formulas, ``drawn.json`` clips of the synthetic demo dataset, and ``real.json`` real
clips, which need the test data beside the checkout and YuNet.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np

from lossless import write
from reactometer.config import PrepareConfig
from reactometer.data.splits import assign_folds, assign_splits, split
from reactometer.evaluation.bootstrap import Resampling, bootstrap_metrics
from reactometer.evaluation.calibration import measure_reliability
from reactometer.evaluation.paired_test import compare_paired
from reactometer.inference.checkpoint import load_model
from reactometer.inference.conformal import fit_intervals, fit_isotonic_map
from reactometer.inference.postprocess import find_events, parse_baseline, refine
from reactometer.inference.prediction import Prediction
from reactometer.inference.predictor import predict_files
from reactometer.media.audio_features import log_mel, voice_contours
from reactometer.media.faces import decode_crop, load_detector
from reactometer.media.segments import prepare_clip
from reactometer.paths import STARTER
from reactometer.synthetic.clip import clip_plan, render_clip
from reactometer.types import Clip, FloatArray

Numbers = dict[str, list[float] | list[str]]
"""KIND/NAME -> what is said; lists of words are compared exactly, numbers within the tolerance of their kind.
"""

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "golden"
SHARED = ROOT.parent / "shared" / "data"
CHANGELOG = ROOT / "CHANGELOG.md"

TOLERANCES = {
    "boxes_px": 0.01,
    "crops": 0.05,  # grey levels
    "log_mel": 1e-4,
    "contours": 1e-4,
    "intensities": 1e-4,
    "timeline": 1e-4,
    "events_s": 0.01,  # where a flat line crosses the threshold moves more than the line
    "times_s": 1e-6,
    "scores": 1e-9,
    "draws": 1e-9,
}
"""Tolerances of other CPUs and Python versions, far below the effect of any changed constant; "said" is
exact.

Seen: nothing from run to run and from Python 3.11 to 3.13; intensities by 1e-7 with two threads, and with
AVX2 instead of AVX-512. Without AVX2, intensities of drawn people by 3e-5, of real ones by 5e-4, log-mel by
1e-5, crops by .01.
"""

DRAWN_CLIPS = (3, 5, 29)
"""Clips of the synthetic dataset: a person turns away, a person laughs, a clip without sound."""
REAL_CLIPS = (
    "clips/single_face.mp4",
    "clips/face_noface.mov",
    "clips/no_face.mp4",
    "clips/WolfgangLanger_Pexels.mp4",
)
REAL_VOICES = ("facevoice/val/mp4/00360.mp4", "facevoice/val/mp4/00400.mp4")


def formulas() -> Numbers:
    """Return numbers of scores and seeds."""
    return {**_scores(), **_draws()}


def drawn() -> Numbers:
    """Numbers of synthetic faces with the Haar detector."""
    numbers: Numbers = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in DRAWN_CLIPS:
            frames, waveform = render_clip(clip_plan(number))
            file = write(Path(folder, f"{number}.mkv"), frames, waveform)
            numbers |= _of_sound(str(number), np.concatenate([waveform, np.zeros(1600, np.float32)]))
            numbers |= _of_file(str(number), file, "haar", window_s=1.0, hop_s=0.5)
    return numbers


def real() -> Numbers:
    """Return numbers of real clips, as ``predict`` reads them with YuNet."""
    numbers: Numbers = {}
    for name in (*REAL_CLIPS, *REAL_VOICES):
        numbers |= _of_file(Path(name).stem, SHARED / name, "yunet", window_s=2.0, hop_s=1.0)
    return numbers


def _of_file(name: str, file: Path, detector: str, window_s: float, hop_s: float) -> Numbers:
    starter = load_model(STARTER, "cpu")
    settings = starter.config.prepare.model_copy(update={"detector": detector})
    starter = replace(starter, config=starter.config.model_copy(update={"prepare": settings}))
    (screened,) = predict_files([file], starter, timeline=False, progress=False)
    (one,) = predict_files(
        [file], replace(starter, screening=None), window_s=window_s, hop_s=hop_s, progress=False
    )
    level = float(np.mean([window.intensities for window in one.windows if window.intensities] or 0.1))
    events = find_events(one, level)
    refined = refine(one, 2 * window_s, parse_baseline(f"0-{2 * window_s}s", window_s))
    lifted = refine(one, 0.0, parse_baseline("running", window_s))
    return {
        **_of_crops(name, file, settings, detector),
        f"said/{name}": [screened.status, *screened.warnings],
        f"said/{name} events": [event.label for event in events],
        f"intensities/{name}": list(one.intensities or ()),
        f"intensities/{name} intervals": _flat(one.intervals),
        f"timeline/{name}": _timeline(one),
        f"timeline/{name} refined": [*_timeline(refined), *(refined.intensities or ())],
        f"timeline/{name} above rest": _timeline(lifted),
        f"times_s/{name}": [
            *(one.duration_s or 0.0, one.face_share or 0.0, float(one.frames_read)),
            *_flat([(window.start_s, window.end_s, window.face_share) for window in one.windows]),
        ],
        f"timeline/{name} events": _flat([(event.peak, event.mean) for event in events]),
        f"events_s/{name}": _flat([(event.onset_s, event.peak_s, event.offset_s) for event in events]),
    }


def _of_crops(name: str, file: Path, settings: PrepareConfig, detector: str) -> Numbers:
    """Positions of faces, and the mean grey level of all crops in 6 x 6 cells and three colours."""
    samples = prepare_clip(file, settings, load_detector(detector)).samples
    crops = [decode_crop(sample.crop_jpeg) for sample in samples if sample.crop_jpeg]
    coarse = [cv2.resize(crop.astype(np.float32), (6, 6), interpolation=cv2.INTER_AREA) for crop in crops]
    return {
        f"said/{name} frames": ["".join(sample.state.name[0] for sample in samples)],
        f"boxes_px/{name}": _flat([sample.box for sample in samples[::5] if sample.box]),
        f"crops/{name}": _flat(np.mean(coarse, axis=0)) if crops else [],
    }


def _of_sound(name: str, waveform: FloatArray) -> Numbers:
    mel, (values, speaks) = log_mel(waveform), voice_contours(waveform)
    return {
        f"log_mel/{name}": [*_flat(mel.mean(axis=0)), *_flat(mel.std(axis=0)), *_flat(mel[::50, ::8])],
        f"contours/{name}": [*_flat(values.mean(axis=0)), *_flat(values.std(axis=0)), float(speaks.mean())],
    }


def _scores() -> Numbers:
    """Metrics, intervals, tests, curves and conformal widths of 40 clips of 10 people, made of sines."""
    indices, labels = np.arange(40.0)[:, None], ("Joy", "Fear", "Awe")
    truth = 0.5 + 0.4 * np.sin(indices * [0.7, 1.1, 1.3])
    guess = 0.5 + 0.2 * np.sin(indices * [0.7, 1.1, 1.3] + [0.4, 0.9, 2.0]) + 0.1 * np.cos(indices * 2.9)
    other, people = (
        0.9 * guess + 0.1 * np.cos(indices * [0.3, 1.7, 2.3]),
        [f"p{index % 10}" for index in range(40)],
    )
    by_person = Resampling("person", people, 500)
    intervals = bootstrap_metrics(truth, guess, labels, by_person)
    paired = compare_paired(truth, guess, other, labels, by_person)
    reliability = measure_reliability(truth, guess, labels, by_person)
    curve = fit_isotonic_map(guess[:, 0], truth[:, 0])
    return {
        "scores/intervals": _flat(
            [[item.value, item.low, item.high] for item in intervals.mean.values() if item]
        ),
        **{
            f"scores/{kind}": _flat([[item.value, item.low, item.high] for item in each if item])
            for kind, each in intervals.by_label.items()
        },
        "scores/paired": _flat(
            [(item.interval.value, item.interval.low, item.p) for item in paired.differences]
        ),
        "scores/slopes": _flat([(item.slope.value, item.slope.high) for item in reliability if item.slope]),
        "scores/widths": [
            *fit_intervals(guess, truth, 0.9).others.half_widths,
            *fit_intervals(guess, truth, 0.8, people).strongest.half_widths,
        ],
        "scores/curve": [*curve.x, *curve.y],
    }


def _draws() -> Numbers:
    """Return results of seeds: people and faces of the synthetic dataset, splits, folds, clean splits."""
    plans = [clip_plan(number) for number in range(0, 480, 8)]
    clips = [
        Clip(plan.clip_id, Path(plan.clip_id), "train", plan.person, plan.stimulus, plan.labels)
        for plan in plans
    ]
    with tempfile.TemporaryDirectory() as folder:
        table, clean = Path(folder, "table.csv"), Path(folder, "clean.csv")
        with table.open("w", newline="", encoding="utf-8") as file:
            rows = [(f"{at}.mp4", f"p{at * at % 47}", at / 90, at * at % 53 / 53) for at in range(90)]
            csv.writer(file).writerows([("path", "person", "Joy", "Fear"), *rows])
        split(table, clean, disjoint=["person"], labels=("Joy", "Fear"))
        with clean.open(encoding="utf-8") as file:
            cleaned = [row["split"] for row in csv.DictReader(file)]
    return {
        "draws/labels": _flat([plan.labels for plan in plans]),
        "draws/poses": _flat([(plan.poses[9].x, plan.poses[9].yaw, plan.onset_s) for plan in plans]),
        "said/people": [f"{plan.split} {plan.person} {plan.stimulus}" for plan in plans],
        "said/splits": [clip.split or "" for clip in assign_splits(clips)],
        "said/folds": [clip.split or "" for clip in assign_folds(clips, 3, 0)],
        "said/clean splits": cleaned,
    }


def _timeline(one: Prediction) -> list[float]:
    """Every window's intensities; -1 where it has none."""
    return _flat([window.intensities or (-1.0,) * len(one.labels) for window in one.windows])


def _flat(values: object) -> list[float]:
    return [float(value) for value in np.asarray(() if values is None else values, dtype=np.float64).ravel()]


MAKERS = {"formulas": formulas, "drawn": drawn, "real": real}


def differences(
    golden: Mapping[str, Sequence[object]], now: Mapping[str, Sequence[object]]
) -> Iterator[tuple[str, float]]:
    """KIND/NAME -> how many tolerances what is said now lies from the golden number; infinite where it is
    another."""
    for name in sorted({*golden, *now}):
        one, other, kind = golden.get(name), now.get(name), name.split("/")[0]
        if kind == "said" or one is None or other is None or len(one) != len(other):
            yield name, 0.0 if one == other else math.inf
        else:
            apart = np.abs(np.array(one, dtype=float) - np.array(other, dtype=float)).max(initial=0.0)
            yield name, float(apart) / TOLERANCES[kind]


def read(name: str) -> Numbers:
    """The golden numbers of a file's name; none where there is no file yet."""
    file = FOLDER / f"{name}.json"
    golden: Numbers = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return golden


def _write(name: str, numbers: Numbers) -> None:
    """A line a name, digits to a tenth of the tolerance, so that a change is seen in the versions'
    difference."""
    lines = []
    for key, values in sorted(numbers.items()):
        kind = key.split("/")[0]
        digits = None if kind == "said" else 1 + math.ceil(-math.log10(TOLERANCES[kind]))
        rounded = values if digits is None else [round(float(value), digits) for value in values]
        lines.append(f"{json.dumps(key)}: {json.dumps(rounded)}")
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def fingerprint() -> str:
    """Return the hash of all golden files, which CHANGELOG.md must name."""
    return sha256(b"".join(file.read_bytes() for file in sorted(FOLDER.glob("*.json")))).hexdigest()[:12]


def changelog_entries() -> list[tuple[int, str]]:
    """The lines "Numbers N (`FINGERPRINT`)" of CHANGELOG.md, from top to bottom."""
    entries = re.findall(r"Numbers (\d+) \(`([0-9a-f]{12})`\)", CHANGELOG.read_text(encoding="utf-8"))
    return [(int(number), digest) for number, digest in entries]


def main() -> None:
    """Compare, or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    arguments, beyond = parser.parse_args(), False
    for name, make in MAKERS.items():
        if make is real and not SHARED.is_dir():
            print(f"real: left as it is, since the test data is not at {SHARED}")
            continue
        golden, now, worst = read(name), make(), dict[str, float]()
        apart = dict(differences(golden, now))
        for key, difference in apart.items():
            kind = key.split("/")[0]
            worst[kind] = max(worst.get(kind, 0.0), difference)
            if difference > 1.0:
                print(f"{name}: {key}: {difference:.3g} tolerances apart", file=sys.stderr)
        for kind, difference in worst.items():
            tolerance = TOLERANCES.get(kind)
            told_of = (
                "words" if tolerance is None else f"{difference * tolerance:.2g}, tolerance {tolerance:g}"
            )
            print(f"{name} {kind}: {told_of}{', beyond it' if difference > 1.0 else ''}")
        changed = {key for key, difference in apart.items() if difference > 1.0}
        beyond |= bool(changed)
        if arguments.write and changed:  # what is within its tolerance stays as it was, on whatever machine
            _write(name, {key: now[key] if key in changed else golden[key] for key in now})
    if arguments.write and (not changelog_entries() or changelog_entries()[0][1] != fingerprint()):
        number = 1 + max((number for number, _ in changelog_entries()), default=0)
        print(
            f"CHANGELOG.md needs a line above older ones, with what changed: Numbers {number} "
            f"(`{fingerprint()}`)"
        )
    sys.exit(beyond and not arguments.write)


if __name__ == "__main__":
    main()
