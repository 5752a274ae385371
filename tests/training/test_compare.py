"""Several configurations and seeds in one table, through the command and the function."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

import reactometer
from reactometer.cli.app import main
from reactometer.data.cache import PreparedSet
from reactometer.errors import ConfigError, DataError, OutputError
from reactometer.training.compare import Comparison, as_table, markdown

SMALL = [
    "model.n_frames=3",
    "model.size_px=32",
    "model.hidden=8",
    "model.pooling=network",
    "training.epochs=1",
]
pytestmark = pytest.mark.slow(30)  # trains eight small models

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "small"


@pytest.fixture(scope="module")
def made(prepared: PreparedSet, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    configs = [CONFIGS / "resnet50-gru.toml", CONFIGS / "multimodal.toml"]
    out = tmp_path_factory.mktemp("comparison")
    return reactometer.compare(configs, prepared.folder, out, seeds=2, overrides=SMALL, progress=False)


def test_a_row_a_system_and_two_more_where_a_modality_can_be_taken_away(made: Comparison) -> None:
    assert [(row.name, row.reads) for row in made.rows] == [
        ("resnet50-gru", "face"),
        ("multimodal", "face and voice"),
        ("multimodal, without voice", "face"),
        ("multimodal, without face", "voice"),
    ]
    for row in made.rows:
        assert len(row.metrics) == 2
        assert row.metrics[0] != row.metrics[1]  # seeds differ
        assert row.interval.low <= row.interval.value <= row.interval.high


def test_the_files_say_the_same(made: Comparison) -> None:
    table = pd.read_csv(made.folder / "comparison.csv")
    assert len(table) == 8
    pd.testing.assert_frame_equal(table, as_table(made), check_dtype=False, check_exact=False)
    text = (made.folder / "comparison.md").read_text(encoding="utf-8")
    assert text == markdown(made)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 4 + 1  # head, rows, a baseline


def test_scores_are_those_of_evaluate(made: Comparison, prepared: PreparedSet) -> None:
    evaluation = reactometer.evaluate(
        made.folder / "runs" / "multimodal-seed1" / "model", prepared.folder, without="voice", progress=False
    )
    assert evaluation.metrics == made.rows[2].metrics[1]


def test_a_second_call_trains_nothing(
    made: Comparison,
    prepared: PreparedSet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("reactometer.training.train.fit", None)
    monkeypatch.chdir(made.folder.parent)
    out = made.folder.name  # the same folder by another path
    arguments = ["compare", *CONFIGS.glob("[mr]*[lu].toml"), "-d", prepared.folder, "-o", out]
    arguments += ["--seeds", 2] + [word for pair in SMALL for word in ("--set", pair)]
    monkeypatch.setattr(sys, "argv", ["reactometer", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert "multimodal, without face" in printed
    assert f"{out}/comparison.md" in printed
    assert "median of 2 seeds" in printed


def test_runs_of_other_settings_are_not_mixed_in(made: Comparison, prepared: PreparedSet) -> None:
    config = CONFIGS / "resnet50-gru.toml"
    with pytest.raises(OutputError, match=r"resnet50-gru-seed0.*another configuration"):
        reactometer.compare([config], prepared.folder, made.folder, overrides=[*SMALL, "model.dropout=0.3"])
    with pytest.raises(DataError, match=r"held-out clips.*'train'"):
        reactometer.compare([config], prepared.folder, made.folder, split="train")
    with pytest.raises(ConfigError, match="same name"):
        reactometer.compare([config, CONFIGS.parent / config.name], prepared.folder, made.folder)
