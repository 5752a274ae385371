"""Properties of manifests, encodings, tracks and windows, tested with random contents."""

from __future__ import annotations

import csv
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reactometer.data.datasets import read_dataset
from reactometer.data.manifest import read_rows
from reactometer.data.splits import with_splits
from reactometer.errors import DataError
from reactometer.media.segments import WindowSpec, _WindowBuffer, select_face, slice_clip
from reactometer.types import FaceSample, FrameState, MediaInfo, PreparedClip

settings.register_profile("here", deadline=None, max_examples=25, database=None, derandomize=True)
settings.load_profile("here")

names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
cells = names.map(str.strip).filter(lambda name: bool(name.strip("[]")))
rows = st.lists(st.tuples(cells, cells | st.just(""), st.floats(0.0, 1.0, width=32)), min_size=1, max_size=20)


@given(rows, st.booleans())
def test_a_manifest_has_every_row_with_its_names(rows: list[tuple[str, str, float]], with_mark: bool) -> None:
    """Commas, quotes and any script in paths and people; the second row of a path is reported, and none is
    dropped."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "table.csv"
        with file.open("w", encoding="utf-8-sig" if with_mark else "utf-8", newline="") as out:
            csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("path", "person", "Joy, or not"), *rows])
        manifest = read_dataset(file)
    assert manifest.labels == ("Joy, or not",) and len(manifest.clips) == len(rows)
    seen = set[str]()
    for (path, person, joy), clip in zip(rows, manifest.clips, strict=True):
        assert (clip.clip_id, clip.person, clip.labels) == (path, person or None, (joy,))
        assert clip.path == Path(folder) / path
        assert (clip.problem is None) == (path not in seen)
        seen.add(path)
    split = with_splits(manifest.clips)
    assert [one.clip_id for one in split] == [path for path, *_ in rows]
    homes = {(one.person, one.split) for one in split if one.person and not one.problem}
    assert len(homes) == len({person for person, _ in homes})  # nobody is in two splits


@given(
    st.lists(names, min_size=1, max_size=5),
    st.sampled_from(["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "shift-jis", "gb18030"]),
)
def test_another_encoding_is_refused(paths: list[str], encoding: str) -> None:
    """A name that became another one would go unnoticed."""
    paths = [one.strip() for one in paths if one.strip()]
    assume(paths)
    text = "path,Joy\r\n" + "".join(f'"{one.replace(chr(34), chr(34) * 2)}",0.5\r\n' for one in paths)
    data = text.encode(encoding, errors="ignore")
    try:
        as_utf8 = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        as_utf8 = None
    assume(as_utf8 is None or "\x00" in as_utf8 or as_utf8 == text)  # else nothing can tell
    with TemporaryDirectory() as folder:
        file = Path(folder) / "table.csv"
        file.write_bytes(data)
        if as_utf8 != text:
            with pytest.raises(DataError, match=r"table\.csv: (not a CSV table|no column)"):
                read_rows(file, ["path"])
        else:
            assert [row["path"] for row in read_rows(file, ["path"])] == paths


samples = st.lists(st.floats(0.0, 30.0), max_size=40, unique=True).map(
    lambda times: tuple(FaceSample(time_s, FrameState.NO_FACE) for time_s in sorted(times))
)


@given(samples, st.floats(0.2, 8.0), st.floats(0.1, 1.0), st.floats(0.0, 3.0))
def test_windows_contain_every_sample_and_equal_slices_of_the_whole_clip(
    all_samples: tuple[FaceSample, ...], length_s: float, share: float, rest_s: float
) -> None:
    spec = WindowSpec(length_s, length_s * share)
    end_s = (all_samples[-1].time_s if all_samples else 0.0) + rest_s + 0.2
    buffer = _WindowBuffer(MediaInfo(Path("a.mp4"), None, True, False), [spec], has_sound=False)
    windows = list[PreparedClip]()
    for sample in all_samples:
        windows += [window for _, window in buffer.complete_until(sample.time_s)]
        buffer.add(sample)
    buffer.video_end_s = end_s
    windows += [window for _, window in buffer.finish()]
    clip = PreparedClip(0.0, end_s, all_samples, None)
    assert [window.start_s for window in windows] == pytest.approx(
        [spec.hop_s * i for i in range(len(windows))]
    )
    assert all(window == slice_clip(clip, window.start_s, window.end_s) for window in windows)
    in_windows = {sample for window in windows for sample in window.samples}
    assert in_windows >= {sample for sample in all_samples if sample.time_s < windows[-1].end_s}
    assert windows[-1].end_s >= end_s - 0.1


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12))
def test_each_person_has_one_sample_per_frame(frames: list[tuple[int, bool]]) -> None:
    """Everybody's samples, frame by frame, as tracks give them: one without a number, then one a face."""
    all_samples = list[FaceSample]()
    for frame, (count, _) in enumerate(frames):
        all_samples.append(FaceSample(float(frame), FrameState.NO_FACE))
        all_samples += [
            FaceSample(float(frame), FrameState.FACE, (0.0, 0.0, 1.0, 1.0), 0.9, face=n) for n in range(count)
        ]
    clip = PreparedClip(0.0, float(len(frames)), tuple(all_samples), None)
    for face in range(3):
        states = [sample.state for sample in select_face(clip, face).samples]
        assert states == [FrameState.FACE if face < count else FrameState.NO_FACE for count, _ in frames]
    assert all(sample.state is FrameState.NO_FACE for sample in select_face(clip, None).samples)
