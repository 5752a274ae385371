"""What holds for every input: tables, configurations, windows, masks, scores, and what is written and read
again."""

from __future__ import annotations

import csv
import io
import json
import math
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pandas as pd
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reactometer.batch.ray_backend import PREDICTIONS
from reactometer.config import Config, parse_config
from reactometer.data.inputs import sample_frame_indices
from reactometer.data.manifest import parse_labels, parse_split, read_rows
from reactometer.errors import ConfigError, DataError
from reactometer.evaluation.metrics import ccc, pearson
from reactometer.inference.conformal import conformal_half_width
from reactometer.inference.elan_vtt import write_elan
from reactometer.inference.postprocess import find_events, smooth
from reactometer.inference.prediction import Prediction, Window
from reactometer.inference.tables import (
    timeline_columns,
    timeline_rows,
    write_table,
)
from reactometer.media.segments import MAX_SEGMENT, MIN_NEW_CONTENT_S, part_bounds
from reactometer.serving.routes import file_name

settings.register_profile("here", deadline=None, max_examples=50, database=None, derandomize=True)
settings.load_profile("here")

Values = npt.NDArray[np.float64]
unit = st.floats(0.0, 1.0, width=32)
names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Cn", "Co"]), min_size=1, max_size=30
)


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    """Of a file with a timeline, some windows of which have nothing to go by."""
    labels = tuple(draw(st.lists(names.map(str.strip).filter(bool), min_size=1, max_size=4, unique=True)))
    count, hop_s = draw(st.integers(1, 12)), draw(st.sampled_from([0.5, 1.0, 2.0]))
    windows = tuple(
        Window(
            index * hop_s,
            index * hop_s + 2.0,
            draw(unit),
            draw(st.none() | st.tuples(*[unit] * len(labels))),
            tuple(draw(st.lists(st.sampled_from(["too short", "voice unlike; much"]), max_size=2))),
        )
        for index in range(count)
    )
    path = draw(names.filter(lambda name: "/" not in name and name not in (".", "..")))
    intensities = draw(st.tuples(*[unit] * len(labels)))
    return Prediction(path, "ok", labels, windows[-1].end_s, 1.0, True, intensities, windows, coverage=0.9)


@given(predictions(), st.sampled_from([".csv", ".parquet", ".json"]))
def test_a_table_that_was_written_is_read_as_it_was(prediction: Prediction, ending: str) -> None:
    assume(not set(prediction.labels) & {"path", "start_s", "end_s", "state", "face_share", "warnings"})
    columns = timeline_columns(prediction)
    assume(len(set(columns)) == len(columns))
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"table{ending}"
        write_table(timeline_rows([prediction]), columns, file)
        if ending == ".csv":
            rows: list[dict[str, Any]] = list(
                csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline=""))
            )
        elif ending == ".parquet":
            rows = pd.read_parquet(file).to_dict("records")  # type: ignore[assignment]
        else:
            rows = json.loads(file.read_text(encoding="utf-8"))
    assert len(rows) == len(prediction.windows) and list(rows[0]) == columns
    for row, window in zip(rows, prediction.windows, strict=True):
        for index, label in enumerate(prediction.labels):
            value = row[label]
            is_empty = value in (None, "") or (isinstance(value, float) and math.isnan(value))
            assert is_empty == (window.intensities is None)
            assert is_empty or math.isclose(float(value), window.intensities[index], abs_tol=1e-6)  # type: ignore[index]


@given(predictions())
def test_a_saved_prediction_is_read_back(prediction: Prediction) -> None:
    assert PREDICTIONS.validate_json(PREDICTIONS.dump_json([prediction])) == [prediction]


@given(predictions())
def test_an_elan_document_is_one_whatever_the_names(prediction: Prediction) -> None:
    with TemporaryDirectory() as folder:
        file = write_elan([prediction], 0.5, Path(folder) / "clip.eaf", local=False)
        tree = ElementTree.parse(file)
    tiers = {str(tier.get("TIER_ID")): tier for tier in tree.iter("TIER")}
    assert {f"{label} (intensity)" for label in prediction.labels} <= set(tiers)
    times = {
        str(slot.get("TIME_SLOT_ID")): int(str(slot.get("TIME_VALUE"))) for slot in tree.iter("TIME_SLOT")
    }
    for tier in tiers.values():
        ends = [
            (times[str(one.get("TIME_SLOT_REF1"))], times[str(one.get("TIME_SLOT_REF2"))])
            for one in tier.iter("ALIGNABLE_ANNOTATION")
        ]
        assert all(start <= end for start, end in ends)
        assert all(one[1] <= other[0] for one, other in pairwise(ends))  # none lie over another


@given(predictions(), st.floats(0.01, 1.0))
def test_events_are_where_the_timeline_is_above_the_threshold(
    prediction: Prediction, threshold: float
) -> None:
    for event in find_events(prediction, threshold):
        index = prediction.labels.index(event.label)
        assert 0.0 <= event.onset_s <= event.peak_s <= event.offset_s <= prediction.windows[-1].end_s
        assert threshold <= event.mean + 1e-6 and event.mean <= event.peak + 1e-6
        assert event.peak == max(
            window.intensities[index]
            for window in prediction.windows
            if window.intensities and event.onset_s <= (window.start_s + window.end_s) / 2 <= event.offset_s
        )


@given(predictions(), st.floats(0.0, 20.0))
def test_smoothing_stays_between_the_extremes(prediction: Prediction, span_s: float) -> None:
    smoothed = smooth(prediction, span_s)
    for index in range(len(prediction.labels)):
        before = [window.intensities[index] for window in prediction.windows if window.intensities]
        after = [window.intensities[index] for window in smoothed.windows if window.intensities]
        assert len(before) == len(after)
        assert all(min(before) - 1e-6 <= value <= max(before) + 1e-6 for value in after)


@given(st.floats(0.0, 10_000.0))
def test_parts_cover_a_clip_without_a_gap(duration_s: float) -> None:
    spans = part_bounds(duration_s)
    assert spans[0][0] == 0.0
    assert math.isclose(spans[-1][1], duration_s) or spans[-1][1] >= duration_s - MIN_NEW_CONTENT_S
    assert all(one[1] == other[0] for one, other in pairwise(spans))
    assert all(end_s - start_s <= MAX_SEGMENT.length_s for start_s, end_s in spans)


@given(st.lists(st.floats(0.0, 60.0), max_size=80, unique=True).map(sorted), st.integers(1, 64))
def test_frames_are_picked_once_each_and_in_order(times_s: list[float], n_frames: int) -> None:
    picked = sample_frame_indices(times_s, 0.0, 60.0, n_frames)
    assert len(picked) <= n_frames and picked == sorted(set(picked))
    assert bool(picked) == bool(times_s) and all(0 <= index < len(times_s) for index in picked)


pairs = st.integers(3, 40).flatmap(
    lambda count: st.tuples(*[arrays(np.float64, (count, 2), elements=st.floats(0.0, 1.0, width=32))] * 2)
)


@given(pairs, st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
def test_pearson_equals_numpys_and_ignores_scale(
    both: tuple[Values, Values], scale: float, shift: float
) -> None:
    targets, predicted = both
    assume((np.ptp(targets, axis=0) > 1e-3).all() and (np.ptp(predicted, axis=0) > 1e-3).all())
    r = np.array(pearson(targets, predicted), dtype=float)
    expected = [np.corrcoef(targets[:, column], predicted[:, column])[0, 1] for column in range(2)]
    np.testing.assert_allclose(r, expected, atol=1e-6)
    np.testing.assert_allclose(
        r, np.array(pearson(targets, scale * predicted + shift), dtype=float), atol=1e-5
    )
    np.testing.assert_allclose(-r, np.array(pearson(targets, -predicted), dtype=float), atol=1e-6)
    assert (np.abs(np.array(ccc(targets, predicted), dtype=float)) <= np.abs(r) + 1e-6).all()
    np.testing.assert_allclose(np.array(ccc(targets, targets), dtype=float), 1.0, atol=1e-6)


@given(st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=60), st.floats(0.05, 0.95))
def test_intervals_hold_their_share_of_what_they_were_fitted_to(
    residuals: list[float], coverage: float
) -> None:
    half = conformal_half_width(np.abs(residuals), np.arange(len(residuals)), coverage)
    coverage_of_half = np.mean(np.abs(residuals) <= half + 1e-12)
    assert coverage_of_half >= min(coverage, 1.0) - 1e-9


cells = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20).map(str.strip)


@given(
    st.lists(st.tuples(cells.filter(bool), cells), min_size=1, max_size=20),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_csv_is_read_as_it_was_written(rows: list[tuple[str, str]], with_mark: bool, line_end: str) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "table.csv"
        with file.open("w", encoding="utf-8-sig" if with_mark else "utf-8", newline="") as out:
            writer = csv.writer(out, lineterminator=line_end, quoting=csv.QUOTE_ALL)
            writer.writerows([("path", "note"), *rows])
        assert [(row["path"], row["note"]) for row in read_rows(file, ["path"])] == rows


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_reported_as_no_table(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "table.csv"
        file.write_bytes(data)
        try:
            rows = read_rows(file, ["path"])
        except DataError as error:
            assert str(file) in str(error)
        else:
            assert rows and all("path" in row for row in rows)


@given(st.text(max_size=12), st.text(max_size=12))
def test_unknown_labels_and_splits_are_reported(cell: str, split: str) -> None:
    values, problem = parse_labels({"Joy": cell}, ["Joy"])
    assert values is None or 0.0 <= values[0] <= 1.0
    assert (values is None) == (problem is not None or not cell.strip())
    name, wrong = parse_split(split)
    assert name in (None, "train", "val", "test") and (wrong is None or name is None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
sections = st.sampled_from(["data", "prepare", "model", "training", "modle", ""])
keys = st.sampled_from(["epochs", "hidden", "name", "rate_hz", "path", "out", "loss", "epoch"]) | st.text(
    max_size=8
)


@given(st.dictionaries(sections, st.dictionaries(keys, json_values, max_size=3) | json_values, max_size=3))
def test_arbitrary_text_is_a_configuration_or_a_clear_error(table: dict[str, Any]) -> None:
    try:
        config = parse_config(table)
    except ConfigError as error:
        assert "\n" not in str(error) and str(error).startswith("configuration")
    else:
        assert Config.model_validate(config.model_dump()) == config


@given(st.text(max_size=300))
def test_a_download_has_a_name_that_every_header_and_disk_takes(name: str) -> None:
    download = file_name(name, "-timeline.csv")
    assert download.isascii() and download.isprintable() and len(download) <= 120
    assert not set(download) & set("/\\\"'<>:|?*") and not download.startswith(".")
