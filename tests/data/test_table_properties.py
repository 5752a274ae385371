"""What holds for every manifest, encoding, mask and window, whatever is in them."""

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
from reactometer.types import FaceSample, FrameState, PreparedClip

settings.register_profile("here", deadline=None, max_examples=25, database=None, derandomize=True)
settings.load_profile("here")

names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
cells = names.map(str.strip).filter(lambda name: bool(name.strip("[]")))
rows = st.lists(st.tuples(cells, cells | st.just(""), st.floats(0.0, 1.0, width=32)), min_size=1, max_size=20)


@given(rows, st.booleans())
def test_a_manifest_holds_every_row_with_its_names(own: list[tuple[str, str, float]], with_mark: bool) -> None:
    """Commas, quotes and any script in paths and people; the second row of a path is told of, none is dropped."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "table.csv"
        with file.open("w", encoding="utf-8-sig" if with_mark else "utf-8", newline="") as out:
            csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("path", "person", "Joy, or not"), *own])
        manifest = read_dataset(file)
    assert manifest.labels == ("Joy, or not",) and len(manifest.clips) == len(own)
    seen = set[str]()
    for (path, person, joy), clip in zip(own, manifest.clips, strict=True):
        assert (clip.clip_id, clip.person, clip.labels) == (path, person or None, (joy,))
        assert clip.path == Path(folder) / path
        assert (clip.problem is None) == (path not in seen)
        seen.add(path)
    split = with_splits(manifest.clips)
    assert [one.clip_id for one in split] == [path for path, *_ in own]
    homes = {(one.person, one.split) for one in split if one.person and not one.problem}
    assert len(homes) == len({person for person, _ in homes})  # nobody is in two splits


@given(
    st.lists(names, min_size=1, max_size=5),
    st.sampled_from(["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "shift-jis", "gb18030"]),
)
def test_another_encoding_is_refused(own: list[str], encoding: str) -> None:
    """A name that became another one would go unnoticed."""
    own = [one.strip() for one in own if one.strip()]
    assume(own)
    text = "path,Joy\r\n" + "".join(f'"{one.replace(chr(34), chr(34) * 2)}",0.5\r\n' for one in own)
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
            assert [row["path"] for row in read_rows(file, ["path"])] == own


samples = st.lists(st.floats(0.0, 30.0), max_size=40, unique=True).map(
    lambda times: tuple(FaceSample(time_s, FrameState.NO_FACE) for time_s in sorted(times))
)


@given(samples, st.floats(0.2, 8.0), st.floats(0.1, 1.0), st.floats(0.0, 3.0))
def test_windows_show_every_sample_and_are_what_is_cut_of_the_whole(
    own: tuple[FaceSample, ...], length_s: float, share: float, rest_s: float
) -> None:
    shape = WindowSpec(length_s, length_s * share)
    end_s = (own[-1].time_s if own else 0.0) + rest_s + 0.2
    cutter, cut = _WindowBuffer([shape], has_sound=False), list[PreparedClip]()
    for sample in own:
        cut += [clip for _, clip in cutter.complete_until(sample.time_s, 0)]
        cutter.add(sample)
    cut += [clip for _, clip in cutter.finish(end_s, 0)]
    whole = PreparedClip(0.0, end_s, own, None)
    assert [clip.start_s for clip in cut] == pytest.approx([shape.hop_s * number for number in range(len(cut))])
    assert all(clip == slice_clip(whole, clip.start_s, clip.end_s) for clip in cut)
    assert {sample for clip in cut for sample in clip.samples} >= {one for one in own if one.time_s < cut[-1].end_s}
    assert cut[-1].end_s >= end_s - 0.1


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12))
def test_each_person_has_one_sample_a_frame(seen: list[tuple[int, bool]]) -> None:
    """Everybody's samples, frame by frame, as tracks give them: one without a number, then one a face."""
    own = list[FaceSample]()
    for frame, (count, _) in enumerate(seen):
        own.append(FaceSample(float(frame), FrameState.NO_FACE))
        own += [FaceSample(float(frame), FrameState.FACE, (0.0, 0.0, 1.0, 1.0), 0.9, face=n) for n in range(count)]
    clip = PreparedClip(0.0, float(len(seen)), tuple(own), None)
    for face in range(3):
        states = [sample.state for sample in select_face(clip, face).samples]
        assert states == [FrameState.FACE if face < count else FrameState.NO_FACE for count, _ in seen]
    assert all(sample.state is FrameState.NO_FACE for sample in select_face(clip, None).samples)
