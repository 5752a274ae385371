"""Several trainings of one configuration, joined: what is there is taken up, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reactometer.data.cache import PreparedSet
from reactometer.errors import ConfigError, OutputError
from reactometer.evaluation.evaluate import evaluate
from reactometer.training.train import ensemble

pytestmark = pytest.mark.slow


def test_members_that_are_there_are_taken_up_and_those_of_others_refused(
    toml: Path, prepared: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [f'data.path="{prepared.folder}"', "model.frozen=true"]
    out = tmp_path / "both"
    with monkeypatch.context() as patch:  # stopped after the first member
        patch.setattr("reactometer.training.train.train_in", _stopping_after(1))
        with pytest.raises(KeyboardInterrupt):
            ensemble(toml, out, overrides, folds=2, progress=False)
    first = (out / "fold0of2" / "model" / "weights.safetensors").stat()
    with pytest.raises(OutputError, match=r"fold0of2.*another configuration"):
        ensemble(toml, out, [*overrides, "model.dropout=0.5"], folds=2, progress=False)
    model = ensemble(toml, out, overrides, folds=2, progress=False)
    assert (out / "fold0of2" / "model" / "weights.safetensors").stat().st_mtime_ns == first.st_mtime_ns
    members = [evaluate(out / f"fold{fold}of2" / "model", prepared.folder, progress=False) for fold in (0, 1)]
    labels = prepared.labels
    each = [one.predictions.set_index("File_ID")[list(labels)] for one in members]
    joined = evaluate(model, prepared.folder, progress=False).predictions.set_index("File_ID")[list(labels)]
    unused = {f"[{name}]" for one in members for name in one.without_input} | {
        name for one in members for name in one.without_input
    }
    rows = [name for name in joined.index if name not in unused]  # a member without input does not count
    assert len(rows) > 5
    np.testing.assert_allclose(joined.loc[rows], (each[0] + each[1]).loc[rows] / 2, atol=1e-6)
    with pytest.raises(ConfigError, match="folds or seeds"):
        ensemble(toml, out, overrides, folds=2, seeds=2)


def _stopping_after(members: int) -> object:
    from reactometer.training.train import train_in

    done: list[Path] = []

    def stopping(*arguments: object, **options: object) -> Path:
        if len(done) == members:
            raise KeyboardInterrupt
        done.append(train_in(*arguments, **options))  # type: ignore[arg-type]
        return done[-1]

    return stopping
