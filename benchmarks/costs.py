"""What many hours of video cost: measured constants, and what follows from them for 1,000 and 1,000,000 hours.

    python benchmarks/costs.py [VIDEO] [--price 0.05] [--cores 16] [--megabits 1.5]

Measured, in one process of one thread, with the starter model: each stage of a prediction, per second of VIDEO
(default: 20 s of the embedded data set); SHA-256; and, per result, what the one process that leads a run does: its
manifest, its shards and its index on this machine's disk, and the hand-over of a task through Ray Data, where it is
installed.
Assumed, and to be named anew where they are otherwise: the price of a core for an hour, cores of a machine, bits of a
second of video. Rounds take turns; figures are medians.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from statistics import median

import cv2
import torch
from measuring import timed, write_video
from predicting import measure

from reactometer.batch.inputs import Source
from reactometer.batch.places import place
from reactometer.batch.ray_backend import files_a_task
from reactometer.batch.result_store import RunFolder, claim_run, keep_result
from reactometer.inference.predictor import predict
from reactometer.media.video import probe
from reactometer.models.folder import load_model
from reactometer.paths import STARTER

ROUNDS, RESULTS, TASKS = 3, 2000, 400
HOURS, FILE_S = (1_000, 1_000_000), (10, 600)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("--price", type=float, default=0.05, help="of a core for an hour, in any currency")
    parser.add_argument("--cores", type=int, default=16, help="of a machine")
    parser.add_argument("--megabits", type=float, default=1.5, help="a second of video")
    asked = parser.parse_args()
    cv2.setNumThreads(1), torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = asked.video or write_video(folder / "rendered.mp4", 20)
        stages = _measure_stages(video, asked.megabits)
        lead_s, kept_bytes = _measure_leading(video, folder)
    task_s = _measure_tasks()
    print(
        f"\n{video.name}: processor seconds a second of video, one thread\n\n| stage | s | share |\n| --- | --- | --- |"
    )
    whole_s = sum(stages.values())
    for stage, seconds in stages.items():
        print(f"| {stage} | {seconds:.4f} | {seconds / whole_s:.0%} |")
    print(f"| **all** | {whole_s:.4f} | {1 / whole_s:.0f} times real time a core |\n")
    print(f"The process that leads: {1000 * lead_s:.2f} ms a result, {kept_bytes:,.0f} bytes kept of one;", end=" ")
    print(f"{1000 * task_s:.1f} ms a task of Ray Data." if task_s else "Ray is not installed.")
    _show_sizes(whole_s, (lead_s, task_s), kept_bytes, asked)


def _measure_stages(video: Path, megabits: float) -> dict[str, float]:
    """Processor seconds a second of video; what no stage holds is the rest."""
    duration_s, data = probe(video).duration_s or 0.0, bytes(1 << 26)
    hashing_s = median(timed(lambda: sha256(data)) for _ in range(ROUNDS)) / len(data)
    model = load_model(STARTER, "cpu")
    seconds, used_s = measure(video, model, model.config.prepare.rate_hz)
    own = {stage: taken / duration_s for stage, taken in seconds.items() if stage != "whole"}
    rest = max(used_s / duration_s - sum(own.values()), 0.0)
    return {"hash": hashing_s * megabits * 1e6 / 8, **own, "the rest": rest}


def _measure_leading(video: Path, folder: Path) -> tuple[float, float]:
    """Seconds of the leading process a result, and bytes that are kept of one."""
    (prediction,) = predict([video], progress=False)
    hashes = [sha256(str(number).encode()).hexdigest() for number in range(RESULTS)]
    sources = [Source(f"{one}.mp4", 1, 1, one) for one in hashes]
    seconds = []
    for number in range(ROUNDS):
        with claim_run(place(folder / f"run-{number}"), {}, everyone=False) as run:
            for source in sources:
                keep_result(run.place, source.sha256, [replace(prediction, path=source.path, samples=())])
            seconds.append(timed(lambda run=run: _lead(run, sources)))  # type: ignore[misc]
    files = [file.stat().st_size for file in (folder / "run-0").rglob("*") if file.is_file()]
    return median(seconds) / RESULTS, sum(files) / RESULTS


def _lead(run: RunFolder, sources: list[Source]) -> None:
    run.keep_manifest(sources)
    run.known(), run.done()
    run.make_shards(1)
    run.finish(sources)


def _measure_tasks() -> float:
    """Seconds a task of one file takes beside the file, with as many processes as processors; 0 without Ray."""
    from reactometer.batch import ray_backend as ray_data
    from reactometer.cluster import connect
    from reactometer.errors import ClusterError

    def run(count: int) -> float:
        return timed(lambda: list(ray_data._rows(lambda: ray_data._dataset([{"n": 0}] * count, 1).map(dict))))

    try:
        with connect("local", None):
            run(10)
            return median((run(TASKS) - run(TASKS // 4)) / (TASKS - TASKS // 4) for _ in range(ROUNDS))
    except ClusterError:
        return 0.0


def _show_sizes(whole_s: float, leading_s: tuple[float, float], kept_bytes: float, asked: argparse.Namespace) -> None:
    print(
        f"\nAssumed: {asked.price:g} a core-hour, {asked.cores} cores a machine, {asked.megabits:g} Mbit/s of video.\n"
    )
    print("| video | files | core-hours | money | read | kept | the leader alone | busy cores at most | bottleneck |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for hours in HOURS:
        for file_s in FILE_S:
            files, core_h = hours * 3600 / file_s, hours * whole_s
            read, kept = hours * 3600 * asked.megabits / 8e6, files * kept_bytes / 1e9
            lead_s = leading_s[0] + leading_s[1] / files_a_task(int(files))
            most = whole_s * file_s / lead_s
            day = core_h / 24
            first = (
                f"{day:,.0f} cores make it a day"
                if day <= most
                else f"the leader; {day / most:.0f} runs side by side make it a day"
            )
            print(
                f"| {hours:,} h, files of {file_s} s | {files:,.0f} | {core_h:,.0f} ({core_h / asked.cores:,.0f}",
                end="",
            )
            print(f" machine-hours) | {core_h * asked.price:,.0f} | {read:,.1f} TB | {kept:,.1f} GB |", end="")
            print(f" {files * lead_s / 3600:,.1f} h | {most:,.0f} | {first} |")


if __name__ == "__main__":
    main()
