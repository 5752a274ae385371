"""Ratings of several raters on any scale -> one row a clip, and how far the raters agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from reactometer.cli.app import app
from reactometer.data.datasets import read_dataset
from reactometer.data.ratings import agreement, gather_ratings
from reactometer.errors import ConfigError, DataError, OutputError

SHROUT_FLEISS = ((9, 2, 5, 8), (6, 1, 3, 2), (8, 4, 6, 8), (7, 1, 2, 6), (10, 5, 6, 9), (6, 2, 4, 7))
"""Table 2 of Shrout and Fleiss 1979: six targets, four judges; ICC(1,1) = .17 and ICC(1,4) = .44 in their
table 4."""


def _table(folder: Path, text: str) -> Path:
    path = folder / "ratings.csv"
    path.write_text(text, encoding="utf-8")
    return path


def _series(rows: tuple[tuple[float, ...], ...]) -> pd.Series:
    return pd.Series([np.array(row, dtype=float) for row in rows])


def test_intraclass_correlations_are_those_of_the_paper() -> None:
    result = agreement(_series(SHROUT_FLEISS))
    assert result.icc_one == pytest.approx(0.17, abs=0.005)
    assert result.icc_mean == pytest.approx(0.44, abs=0.005)
    assert result.ceiling == pytest.approx(0.44**0.5, abs=0.005)


def test_the_ceiling_is_the_score_of_the_true_intensities() -> None:
    """Simulated raters of a known truth: the ceiling is the truth's Pearson with their mean ratings."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=4000)
    counts = rng.integers(2, 6, size=4000)
    ratings = [one + rng.normal(size=n) for one, n in zip(truth, counts, strict=True)]
    reached = np.corrcoef(truth, [values.mean() for values in ratings])[0, 1]
    result = agreement(pd.Series(ratings))
    assert result.ceiling == pytest.approx(reached, abs=0.015)
    assert result.icc_one == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("rows", "known"),
    [
        (((1.0, 2.0), (3.0,)), (False, False)),
        (((3.0, 3.0), (3.0, 3.0)), (False, False)),
        (((1.0, 3.0), (3.0, 1.0)), (True, False)),  # clips have one mean: they differ by nothing
        (((1.0, 1.0), (3.0, 3.0)), (True, True)),
    ],
)
def test_undefined_agreement_is_none(rows: tuple[tuple[float, ...], ...], known: tuple[bool, ...]) -> None:
    result = agreement(_series(rows))
    assert tuple(value is not None for value in (result.icc_one, result.icc_mean)) == known


def test_ratings_become_the_table_of_a_dataset(tmp_path: Path) -> None:
    """As a spreadsheet has them: another case, a decimal comma, NA, an age and remarks."""
    text = (
        "Path;Person;Rater;Split;Joy;Fear;Age;Remark\n"
        "a.mp4;P1;x;train;2;7;30;\na.mp4;P1;y;train;5,5;NA;30;late\n"
        "b.wav;P2;x;dev;1;1;31;\nc.mp4;P3;x;;NA;3;31;\n"
    )
    made = gather_ratings(_table(tmp_path, text), tmp_path / "videos.csv", scale=(1, 7), labels="Joy,Fear")
    assert made.n_clips == 2
    assert made.n_raters == (1, 2)
    assert made.incomplete == ("c.mp4",)
    assert made.means == pytest.approx(((2.75 / 6 + 0) / 2, 0.5))
    manifest = read_dataset(tmp_path / "videos.csv")
    assert manifest.labels == ("Joy", "Fear")
    first, second = manifest.clips
    assert (first.path, first.person, first.split) == (tmp_path / "a.mp4", "P1", "train")
    assert first.labels == pytest.approx((2.75 / 6, 1.0))
    assert (second.split, second.attributes) == ("val", {})


def test_a_table_elsewhere_still_finds_its_clips(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    gather_ratings(_table(tmp_path, "path,Joy\na.mp4,0.5\nb.mp4,1\n"), tmp_path / "out" / "videos.csv")
    clips = read_dataset(tmp_path / "out" / "videos.csv").clips
    assert [clip.path for clip in clips] == [tmp_path / "a.mp4", tmp_path / "b.mp4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,Joy\na.mp4,5\nb.mp4,1\n",
            r"row 2: Joy is outside the rating scale \(got '5'; expected 0 to 1\).*--scale",
        ),
        ("path,Joy\na.mp4,inf\n", "outside the rating scale"),
        ("path,Joy\na.mp4,0.5\nb.mp4,high\n", r"row 3: Joy is outside the rating scale \(got 'high'"),
        ("path,rater,Joy\na.mp4,x,1\na.mp4,x,0\n", "row 3: 'x' rated a.mp4 twice"),
        (
            "path,person,Joy\na.mp4,x,1\na.mp4,y,0\n",
            "row 3: another audio, split, person or stimulus of a.mp4",
        ),
        ("path,split,Joy\na.mp4,holdout,1\n", "row 2: unknown split"),
        ("path,Joy\n,1\na.mp4,1\n", "empty id"),
        ("path,Joy,Fear\na.mp4,1,\nb.mp4,,1\n", "no clip has a rating for every label"),
        ("path,Remark\na.mp4,fine\n", "no label column|not a number"),
        ("clip_name,Joy\na.mp4,1\n", r"no column 'path' \(got clip_name, Joy"),
    ],
)
def test_an_invalid_rating_is_named_and_nothing_is_written(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        gather_ratings(_table(tmp_path, text), tmp_path / "videos.csv")
    assert not (tmp_path / "videos.csv").exists()


def test_an_invalid_scale_and_an_existing_table_are_refused(tmp_path: Path) -> None:
    table = _table(tmp_path, "path,Joy\na.mp4,1\n")
    for scale in ((7, 1), (1, 1), (0, float("nan"))):
        with pytest.raises(ConfigError, match="invalid rating scale"):
            gather_ratings(table, tmp_path / "videos.csv", scale=scale)
    with pytest.raises(OutputError, match="a file that exists"):
        gather_ratings(table, table)


def test_the_command_prints_the_raters_agreement(tmp_path: Path) -> None:
    rows = [f"{clip}.mp4,{value}" for clip, values in enumerate(SHROUT_FLEISS) for value in values]
    table, out = _table(tmp_path, "\n".join(("path,Joy", *rows))), tmp_path / "videos.csv"
    done = CliRunner().invoke(app, ["data", "ratings", str(table), "--scale", "1", "10", "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "6 clips, 4 ratings each" in done.output
    assert "0.166" in done.output  # ICC(1,1)
    assert "0.443" in done.output  # ICC(1,4)
    assert out.is_file()
