"""Near-duplicates: how alike are clips and their re-encoded copies, and clips that have nothing to do with each other?

    python benchmarks/alike.py PREPARED --out alike [--copies 40]

Re-encodes some clips of a prepared data set (three quarters of the size, H.264 at CRF 35; AAC at 24 kbit/s), prepares
the copies in the same way, and compares fingerprints: of each copy with its clip, and of all pairs of different clips.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import numpy as np

from reactometer import prepare
from reactometer.data.cache import open_prepared
from reactometer.data.fingerprints import correlate, find_alike, trace


def reencode(source: Path, target: Path) -> None:
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        video, sound = read.streams.video[0], next(iter(read.streams.audio), None)
        coded = write.add_stream("libx264", rate=video.average_rate, options={"crf": "35", "preset": "veryfast"})
        coded.width, coded.height, coded.pix_fmt = video.width * 3 // 8 * 2, video.height * 3 // 8 * 2, "yuv420p"
        spoken = None
        if sound is not None:
            spoken = write.add_stream("aac", rate=sound.rate, options={"b": "24k"}, layout="mono")
        for frame in read.decode():
            if isinstance(frame, av.VideoFrame):
                write.mux(coded.encode(frame.reformat(coded.width, coded.height)))
            elif spoken is not None:
                write.mux(spoken.encode(frame))
        for stream in (coded, spoken):
            if stream is not None:
                write.mux(stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--out", type=Path, default=Path("alike"))
    parser.add_argument("--copies", type=int, default=40)
    asked = parser.parse_args()
    own = open_prepared(asked.prepared)
    rows = [row for row in own.rows if row.file]
    chosen = rows[:: max(1, len(rows) // asked.copies)]
    (asked.out / "media").mkdir(parents=True, exist_ok=True)
    lines = [",".join(("path", *own.labels))]
    for number, row in enumerate(chosen):
        file = asked.out / "media" / f"{number:05d}.mp4"
        if not file.exists():
            reencode(row.clip.path, file)
        lines.append(",".join([f"media/{file.name}", *["0"] * len(own.labels)]))
    (asked.out / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    copies = prepare(asked.out / "table.csv", asked.out / "prepared", settings=own.settings, workers=1).rows
    everything = [*rows, *copies]
    traces = [trace(row) if row.file else None for row in everything]
    source = {len(rows) + number: rows.index(row) for number, row in enumerate(chosen)}
    found = set(find_alike(everything, traces))
    for is_copy in (True, False):
        kept = []
        for one, other, picture, sound in correlate(everything, traces):
            if is_copy:
                keep = np.array([source.get(b) == a for a, b in zip(one.tolist(), other.tolist(), strict=True)])
            else:
                keep = other < len(rows)
            kept.append(np.stack([one, other, picture, sound])[:, keep])
        pairs = np.concatenate(kept, axis=1)  # (4, pairs)
        same = [(int(one), int(other)) in found for one, other in pairs[:2].T]
        print(f"{'copies' if is_copy else 'different clips'}: {pairs.shape[1]} pairs, {sum(same)} taken for the same")
        for name, r in (("picture", pairs[2]), ("sound", pairs[3]), ("mean of both", pairs[2:].mean(axis=0))):
            known = r[np.isfinite(r)]
            print(f"    {name}: {len(known)} pairs, r from {known.min():.3f} to {known.max():.3f}")


if __name__ == "__main__":
    main()
