"""The loops that ``benchmarks/peers.py`` compares, each run by it as a process of its own, by the Python it is told.

    python benchmarks/peer_loops.py NAME FILE [--rows ROWS.csv] [--passes N] [--weights YUNET] [--network ENCODER.onnx]

Prints one line of JSON. Every loop is written as its makers show it; none imports more than it needs, so that memory
and start are its own. Only ``reactometer``, ``contours``, ``truth`` and ``export`` need this package.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import re
import resource
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = tuple[int, float, bool]
"""Number of the frame in the file, the time that is said of it (seconds), and whether a face was found."""

LONG_SIDE_PX = 480
"""The detector's input, as reactometer's; the plain loops of others see whole frames, as their makers wrote them."""

N_FOLLOWED = 6
"""Emotions of the starter model; the plain network's output layer has as many."""


def plain(video: Path, asked: argparse.Namespace, every: int = 1) -> Iterator[Row]:
    """OpenCV, YuNet and ONNX Runtime as people usually write it: frame number / fps, a call a face."""
    import cv2
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(asked.network), providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    side_px = int(taken.shape[-1])
    video_file = cv2.VideoCapture(str(video))
    fps = video_file.get(cv2.CAP_PROP_FPS)
    size = np.array([video_file.get(cv2.CAP_PROP_FRAME_WIDTH), video_file.get(cv2.CAP_PROP_FRAME_HEIGHT)])
    scale = min(1.0, LONG_SIDE_PX / size.max())
    width, height = (round(side) for side in size * scale)
    detector = cv2.FaceDetectorYN.create(str(asked.weights), "", (width, height), 0.6, 0.3)
    number = -1
    while True:
        number += 1
        read, frame = video_file.read()
        if not read:
            return
        if number % every:
            continue
        _, faces = detector.detect(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA))
        for face in [] if faces is None else faces[:1]:
            left, top, wide, high = (max(0, int(value / scale)) for value in face[:4])
            crop = cv2.resize(frame[top : top + high, left : left + wide], (side_px, side_px))
            picture = np.ascontiguousarray(cv2.cvtColor(crop, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)[None])
            session.run(None, {taken.name: picture})
            yield number, number / fps, True


def plain_5hz(video: Path, asked: argparse.Namespace) -> Iterator[Row]:
    """The same, every so many frames that it looks about five times a second, as the starter model does."""
    import cv2

    return plain(video, asked, max(1, round(cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FPS) / 5)))


def fer(video: Path, asked: argparse.Namespace) -> Iterator[Row]:
    """FER (Haar cascade, TensorFlow Lite), every frame, as its README shows it."""
    from fer.fer import FER

    detector = FER()
    for number, time_s, frame in _frames(video):
        for _ in detector.detect_emotions(frame)[:1]:
            yield number, time_s, True


def facex(video: Path, asked: argparse.Namespace) -> Iterator[Row]:
    """facex (Haar cascade, TensorFlow Lite), every frame."""
    from facex import PoolManager

    pool = PoolManager(1)
    for number, time_s, frame in _frames(video):
        for _ in pool.predict(frame)[:1]:
            yield number, time_s, True
    pool.executor.shutdown()


def mediapipe(video: Path, asked: argparse.Namespace) -> Iterator[Row]:
    """MediaPipe's face mesh: 468 points of a followed face, no emotion; its models of expression come by network."""
    import cv2
    import mediapipe

    with mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=False, max_num_faces=1) as mesh:
        for number, time_s, frame in _frames(video):
            if mesh.process(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).multi_face_landmarks:
                yield number, time_s, True


def reactometer(video: Path, asked: argparse.Namespace) -> Iterator[Row]:
    """``reactometer.predict`` with the timeline, in a process that has started already."""
    from reactometer.inference.predictor import predict

    (prediction,) = predict([video], rate_hz=asked.rate, progress=False)
    for sample in prediction.samples:
        yield -1, sample.time_s, sample.box is not None


def opensmile(sound: Path, asked: argparse.Namespace) -> Iterator[Row]:
    """eGeMAPS v02: its 25 descriptors a step and the 88 functionals of them."""
    import numpy as np
    from opensmile import FeatureLevel, FeatureSet, Smile

    rate_hz, signal = _sound(sound)
    if not hasattr(asked, "smile"):
        levels = (FeatureLevel.LowLevelDescriptors, FeatureLevel.Functionals)
        asked.smile = [Smile(FeatureSet.eGeMAPSv02, level) for level in levels]
    steps, summary = (smile.process_signal(np.asarray(signal), rate_hz) for smile in asked.smile)
    asked.told = {"steps": list(steps.shape), "summary": list(summary.shape)}
    yield from ((number, time_s.total_seconds(), True) for number, time_s in enumerate(steps.index.get_level_values(0)))


def contours(sound: Path, asked: argparse.Namespace) -> Iterator[Row]:
    """What the starter model hears: 43 contours a step, and its encoder's summary is of them."""
    from reactometer.media.contours import CONTOUR_RATE_HZ
    from reactometer.media.contours import contours as run

    _, signal = _sound(sound)
    steps, _ = run(signal)
    asked.told = {"steps": list(steps.shape)}
    yield from ((number, number / CONTOUR_RATE_HZ, True) for number in range(len(steps)))


LOOPS = {loop.__name__: loop for loop in (plain, plain_5hz, fer, facex, mediapipe, reactometer, opensmile, contours)}


def truth(video: Path) -> dict[str, Any]:
    """The container's own times of all frames, from the first on, through PyAV and nothing else."""
    import av

    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        times_s = [float(frame.pts * stream.time_base) for frame in container.decode(stream)]
    return {"times_s": [time_s - times_s[0] for time_s in times_s]}


def export(network: Path) -> dict[str, Any]:
    """Write the starter's face encoder, an output layer of six behind it, as ONNX: one uint8 picture in."""
    import torch

    from reactometer import load_model
    from reactometer.paths import STARTER, find_weights

    model = load_model(STARTER, "cpu")
    encoder = model.network.face_encoder
    whole = torch.nn.Sequential(encoder, torch.nn.Linear(encoder.feature_size, N_FOLLOWED), torch.nn.Sigmoid()).eval()
    side_px = model.sampling.size_px
    picture = torch.zeros((1, 3, side_px, side_px), dtype=torch.uint8)
    torch.onnx.export(whole, (picture,), str(network), dynamo=True, external_data=False, verbose=False)
    return {"weights": str(find_weights("yunet"))}


def write_sound(videos: list[Path], out: Path) -> dict[str, Any]:
    """The sound of some files, one after the other, as 16-bit mono at 16 kHz."""
    import numpy as np

    from reactometer.media.audio import read_sound

    signal = np.concatenate([block.samples for video in videos for block in read_sound(video)])
    with wave.open(str(out), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((np.clip(signal, -1, 1) * 32767).astype("<i2").tobytes())
    return {"seconds": len(signal) / 16_000}


def installed(packages: list[str]) -> dict[str, Any]:
    """MiB that packages and all they require take, less byte code; torch and what only torch brings counted apart.

    Raises importlib.metadata.PackageNotFoundError where one is not installed. Only what is there is counted: ``absent``
    names requirements that are not.
    """
    sizes: dict[str, float] = {}
    with_torch: dict[str, float] = {}
    absent: set[str] = set()
    for package in packages:
        _gather(package, {"torch"}, sizes, set())
        _gather(package, set(), with_torch, absent)
    total, own = sum(with_torch.values()), sum(sizes.values())
    version = importlib.metadata.version(packages[0])
    return {"version": version, "mib": own, "torch_mib": total - own, "absent": sorted(absent)}


def _gather(name: str, left_out: set[str], sizes: dict[str, float], absent: set[str]) -> None:
    own = importlib.metadata.distribution(name)
    paths = {Path(str(own.locate_file(file))) for file in own.files or ()}
    if name == "reactometer":  # an editable install lists none of its files
        import reactometer as package

        paths = set(Path(package.__file__).parent.rglob("*"))
    sizes[name] = sum(path.stat().st_size for path in paths if path.suffix != ".pyc" and path.is_file()) / 2**20
    for line in own.requires or ():
        needed, _, condition = line.partition(";")
        found = re.match(r"[\w.-]+", needed)
        other = found.group().lower().replace("_", "-") if found else ""
        if not other or other in left_out | sizes.keys() | absent or not _applies(condition):
            continue
        try:
            _gather(other, left_out, sizes, absent)
        except importlib.metadata.PackageNotFoundError:
            absent.add(other)


def _applies(condition: str) -> bool:
    """A requirement's condition holds here, no extra asked for."""
    try:
        from packaging.markers import Marker
    except ImportError:
        from pip._vendor.packaging.markers import Marker
    return not condition.strip() or Marker(condition.strip()).evaluate({"extra": ""})


def _frames(video: Path) -> Iterator[tuple[int, float, Any]]:
    import cv2

    video_file = cv2.VideoCapture(str(video))
    fps = video_file.get(cv2.CAP_PROP_FPS)
    number = 0
    while True:
        read, frame = video_file.read()
        if not read:
            return
        yield number, number / fps, frame
        number += 1


def _sound(path: Path) -> tuple[int, Any]:
    import numpy as np

    with wave.open(str(path)) as file:
        signal = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32767
        return file.getframerate(), signal


def _timed(asked: argparse.Namespace) -> dict[str, Any]:
    loop, passes = LOOPS[asked.name], []
    for _ in range(asked.passes):
        started_s = time.perf_counter()
        rows = list(loop(asked.files[0], asked))
        passes.append(time.perf_counter() - started_s)
    if asked.rows:
        with asked.rows.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("frame", "time_s", "face"))
            writer.writerows(rows)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"passes_s": passes, "peak_mib": peak_mib, **getattr(asked, "told", {})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*LOOPS, "truth", "export", "write_sound", "installed"])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--network", type=Path)
    parser.add_argument("--rate", type=float)
    asked = parser.parse_args()
    if asked.name == "truth":
        told = truth(asked.files[0])
    elif asked.name == "export":
        told = export(asked.files[0])
    elif asked.name == "write_sound":
        told = write_sound(asked.files[1:], asked.files[0])
    elif asked.name == "installed":
        told = installed([str(name) for name in asked.files])
    else:
        told = _timed(asked)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
