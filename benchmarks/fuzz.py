"""Media files that are damaged, lie, or are something else, through the service, ``predict`` and a run of this machine.

    python benchmarks/fuzz.py [--through api|python|table|run] [--files 2000] [--seed 0] [--clip FILE]

The kinds of tests/mutations.py of one clip (containers, codecs, sound alone, pictures; turned, wide, at odd times) are
changed at random: bits, cuts, splices, repetitions, headers that lie, times that go back. Nine of ten bear a wrong
ending. ``--clip`` takes a video's first frames and sound, and the file itself, in the place of the rendered clip.

``api`` uploads each to ``reactometer serve``; ``python`` calls ``predict`` with each; ``table`` and ``run`` are one
command, ``reactometer predict FOLDER --out clips.csv`` or ``--out FOLDER``. Each file must end in a result or a
reason; none may take longer than a minute (where each is seen alone), and memory is bounded. In the end there may be no
process, no zombie, no upload, and nothing in the folder for temporary files or in the one that the command was started
in. A file that fails at this is kept in the current folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
from load import service
from measuring import bar

from reactometer.data.simulated_clip import clip_plan, render_clip
from reactometer.inference.predictor import predict
from reactometer.media.audio import read_waveform
from reactometer.media.video import read_frames
from reactometer.models.folder import load_model

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from mutations import mutate, oddities, seeds

LONGEST_S, MOST_MB = 60.0, 4096.0
N_FRAMES, N_SAMPLES = 12, 19_200
ENDINGS = (".mp4", ".mkv", ".avi", ".webm", ".mov", ".gif", ".mp3", ".wav", ".m4a", ".flv")

Told = Iterator[tuple[str, float]]
"""Of each file: "" for a result, else the reason; and the seconds it took, not a number where that is not known."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--through", choices=sorted(WAYS), default="api")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clip", type=Path)
    asked = parser.parse_args()
    told, slowest_s, wrong = Counter[str](), 0.0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, changes = _write_files(folder / "files", asked.clip, asked.files, asked.seed)
        for place in ("temporary", "here", "data"):
            (folder / place).mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "temporary")
        memory = _Memory()
        for file, change, (reason, seconds) in zip(files, changes, WAYS[asked.through](files, folder), strict=True):
            outcome = "result" if not reason else "WRONG" if reason.startswith("WRONG") else "reason"
            told[outcome] += 1
            slowest_s = max(slowest_s, 0.0 if np.isnan(seconds) else seconds)
            is_wrong = outcome == "WRONG" or seconds > LONGEST_S
            if is_wrong or any(word in reason for word in ("died", "more than", "nothing more", "Error: ")):
                print(f"{file.name}, {change}: {seconds:.1f} s: {reason[:300]}", flush=True)
            if is_wrong:
                wrong += 1
                shutil.copy(file, f"fuzz-{asked.seed}-{file.name}")
        largest_mb = memory.end()
        left = [file for file in (folder / "temporary").iterdir() if "torchinductor" not in file.name]  # one a user
        left += [*(folder / "here").iterdir(), *folder.rglob("*.part")]
        left += [*(folder / "data").rglob("uploads/*")]
    for file in left:
        print(f"left: {file}")
    print(f"{asked.through}: {dict(told)}; slowest {slowest_s:.1f} s; at most {largest_mb:.0f} MiB")
    bar("files without a result or reason in time", wrong, 0, at_most=True)
    bar("seconds of the slowest", slowest_s, LONGEST_S, at_most=True)
    bar("memory, MiB", largest_mb, MOST_MB, at_most=True)
    bar("files left", len(left), 0, at_most=True)
    bar("processes left", len(_family()) - 1 - (asked.through == "python"), 0, at_most=True)  # its reader waits


def _write_files(folder: Path, clip: Path | None, count: int, seed: int) -> tuple[list[Path], list[str]]:
    """The changed files, and how each was changed."""
    folder.mkdir()
    if clip is None:
        frames, waveform = render_clip(clip_plan(0))
    else:
        frames = np.stack([frame.rgb() for frame in islice(read_frames(clip), N_FRAMES) if frame.rgb])
        heard = read_waveform(clip)
        waveform = np.zeros(N_SAMPLES, np.float32) if heard is None else heard
    some = frames[:N_FRAMES], waveform[:N_SAMPLES]
    clips = [*seeds(*some).values(), *oddities(*some).values(), *([clip.read_bytes()] if clip else [])]
    files, changes = [], []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        change, data = mutate(clips, rng)
        files.append(folder / f"{number:05d}{rng.choice(ENDINGS)}")
        files[-1].write_bytes(data + f"{number:05d}".encode())  # so that no two are the same
        changes.append(change)
    return files, changes


def _through_api(files: Sequence[Path], folder: Path) -> Told:
    with (
        service(folder / "data", 4) as (address, _),
        httpx.Client(base_url=address, timeout=300) as client,
        ThreadPoolExecutor(3) as pool,
    ):
        yield from pool.map(lambda file: _send(client, file), files)


def _send(client: httpx.Client, file: Path) -> tuple[str, float]:
    began_s = time.perf_counter()
    answer = client.post("/v1/predictions", files={"file": (file.name, file.read_bytes())})
    told, status = answer.json(), answer.status_code
    while status == 202:
        time.sleep(0.2)
        told = client.get(f"/v1/predictions/{answer.json()['id']}").json()
        status = {"done": 200, "failed": 422}.get(told["status"], 202)
    reason = "" if status == 200 else told.get("error") or ""
    is_told = status == 200 or (status == 422 and reason)
    return reason if is_told else f"WRONG: {status} {reason}", time.perf_counter() - began_s


def _through_python(files: Sequence[Path], folder: Path) -> Told:
    model = load_model(Path(sys.modules["reactometer"].__file__ or "").parent / "starter", "cpu")
    for file in files:
        began_s = time.perf_counter()
        (prediction,) = predict([file], model, progress=False)
        yield prediction.status.removeprefix("failed: ") if prediction.failed else "", time.perf_counter() - began_s


def _through_table(files: Sequence[Path], folder: Path) -> Told:
    _command(folder, "--out", str(folder / "data" / "clips.csv"), "--timeline", str(folder / "data" / "timeline.csv"))
    table = pd.read_csv(folder / "data" / "clips.csv", index_col="path", keep_default_na=False)
    for file in files:
        status = str(table["status"].get(str(file), "WRONG: no row"))
        yield status.removeprefix("failed: ") if status.startswith(("failed", "WRONG")) else "", float("nan")


def _through_run(files: Sequence[Path], folder: Path) -> Told:
    _command(folder, "--out", str(folder / "data" / "run"))
    index = set(pd.read_parquet(folder / "data" / "run" / "index.parquet")["path"])
    failed = pd.read_csv(folder / "data" / "run" / "failed.csv", index_col="path")["reason"]
    for file in files:
        yield "" if str(file) in index else str(failed.get(str(file), "WRONG: in no table")), float("nan")


def _command(folder: Path, *outputs: str) -> None:
    """``reactometer predict`` on all files; it must end with the status that some have failed."""
    began_s = time.perf_counter()
    command = [sys.executable, "-m", "reactometer", "predict", str(folder / "files"), *outputs]
    done = subprocess.run(command, cwd=folder / "here", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    print(f"exit status {done.returncode} after {time.perf_counter() - began_s:.0f} s", flush=True)
    if done.returncode != 1:
        print(done.stderr.decode()[-2000:])


WAYS: dict[str, Callable[[Sequence[Path], Path], Told]] = {
    "api": _through_api,
    "python": _through_python,
    "table": _through_table,
    "run": _through_run,
}


def _family() -> list[int]:
    """This process and all that came of it and are there still, zombies too."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it has ended
            continue
    found = [os.getpid()]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


class _Memory(threading.Thread):
    """The most memory that this process and all that came of it held at a time, what is shared counted once, MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.largest_mb, self.over = 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(1.0):
            held_kb = 0
            for process in _family():
                try:
                    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
                except OSError:
                    continue
                held_kb += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            self.largest_mb = max(self.largest_mb, held_kb / 1024)

    def end(self) -> float:
        self.over.set()
        self.join()
        return self.largest_mb


if __name__ == "__main__":
    main()
