"""Two models on the same clips, against SciPy and by simulation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reactometer.errors import DataError, ScoreError
from reactometer.evaluation.bootstrap import Resampling
from reactometer.evaluation.metrics import Array, ccc
from reactometer.evaluation.paired_test import compare_paired, compare_predictions, correct_holm


def _models(seed: int, clips: int, labels: int = 3, better: float = 0.0) -> tuple[Array, Array, Array]:
    """Targets and predictions of two models, of r = .45 and independent errors; the first is better by so
    much of r."""
    targets, *noise = np.random.default_rng(seed).normal(size=(3, clips, labels))
    predictions = [
        r * targets + np.sqrt(1 - r**2) * error for r, error in zip((0.45 + better, 0.45), noise, strict=True)
    ]
    return 0.5 + 0.1 * targets, 0.5 + 0.1 * predictions[0], 0.5 + 0.1 * predictions[1]


def _mean_r(targets: Array, first: Array, second: Array) -> float:
    pairs = zip(targets.T, first.T, second.T, strict=True)
    return float(
        np.mean([stats.pearsonr(t, a).statistic - stats.pearsonr(t, b).statistic for t, a, b in pairs])
    )


def _standard(values: Array) -> Array:
    return np.asarray(stats.zscore(values))


def test_few_units_are_permuted_exhaustively_as_in_scipy() -> None:
    """Nine clips, 512 ways; SciPy swaps the two models' values of a clip, one label (its samples are
    vectors)."""
    targets, first, second = _models(0, clips=9, labels=1, better=0.3)
    paired = compare_paired(targets, first, second, "a")
    standardised = [_standard(values[:, 0]) for values in (first, second)]

    def difference(one: Array, other: Array) -> float:
        return float(np.corrcoef(targets[:, 0], one)[0, 1] - np.corrcoef(targets[:, 0], other)[0, 1])

    theirs = stats.permutation_test(
        standardised, difference, permutation_type="samples", vectorized=False, n_resamples=9999
    )
    assert paired.differences[0].p == pytest.approx(theirs.pvalue, abs=1e-12)
    assert paired.differences[0].interval.value == pytest.approx(theirs.statistic)

    def concordance(one: Array, other: Array) -> float:
        (ours,), (others,) = (ccc(targets, values[:, None]) for values in (one, other))
        return float((ours or 0.0) - (others or 0.0))

    def error(one: Array, other: Array) -> float:
        return float(np.abs(targets[:, 0] - one).mean() - np.abs(targets[:, 0] - other).mean())

    for index, statistic in ((1, concordance), (2, error)):
        theirs = stats.permutation_test(
            (first[:, 0], second[:, 0]),
            statistic,
            permutation_type="samples",
            vectorized=False,
            n_resamples=9999,
        )
        assert paired.differences[index].p == pytest.approx(theirs.pvalue, abs=1e-12)
        assert paired.differences[index].interval.value == pytest.approx(theirs.statistic)


def test_people_are_swapped_and_resampled_with_all_their_clips() -> None:
    """Brute force over all 2 ** 5 ways, and over the very draws of the bootstrap."""
    targets, first, second = _models(1, clips=25, better=0.2)
    people = list(np.arange(25) % 5)
    paired = compare_paired(
        targets,
        first,
        second,
        "abc",
        resampling=Resampling(unit="person", groups=people, n_resamples=40, seed=3),
    )
    assert (paired.unit, paired.n_units) == ("person", 5)
    ours, theirs = _standard(first), _standard(second)
    ways = [
        np.isin(people, np.flatnonzero([way >> person_index & 1 for person_index in range(5)]))[:, None]
        for way in range(32)
    ]
    differences = [_mean_r(targets, np.where(way, theirs, ours), np.where(way, ours, theirs)) for way in ways]
    p = np.mean(np.abs(differences) >= abs(_mean_r(targets, first, second)) - 1e-12)
    assert paired.differences[0].p == pytest.approx(p)
    resamples = np.random.default_rng(3).integers(5, size=(40, 5))
    clips = [
        np.concatenate([np.flatnonzero(np.array(people) == person) for person in row]) for row in resamples
    ]
    scores = [_mean_r(targets[rows], first[rows], second[rows]) for rows in clips]
    interval = paired.differences[0].interval
    assert (interval.low, interval.high) == pytest.approx(
        tuple(np.quantile(scores, [0.025, 0.975])), abs=1e-10
    )


def test_many_clips_agree_with_scipy() -> None:
    """Drawn at random in both: p within its sampling error."""
    targets, first, second = _models(2, clips=80, labels=1, better=0.15)
    paired = compare_paired(targets, first, second, "a", resampling=Resampling(n_resamples=4000))

    def difference(one: Array, other: Array) -> float:
        return float(np.corrcoef(targets[:, 0], one)[0, 1] - np.corrcoef(targets[:, 0], other)[0, 1])

    theirs = stats.permutation_test(
        (_standard(first[:, 0]), _standard(second[:, 0])),
        difference,
        permutation_type="samples",
        vectorized=False,
        n_resamples=4000,
        rng=1,
    )
    assert paired.differences[0].p == pytest.approx(theirs.pvalue, abs=0.04)


@pytest.mark.slow
def test_equal_models_differ_significantly_at_the_nominal_rate() -> None:
    """Under the null, p is below .05 in 5 % of cases, whatever the scales of the predictions are."""
    for scale in (1.0, 0.2):
        p = []
        for seed in range(120):
            targets, first, second = _models(seed, clips=60, labels=2)
            p.append(
                compare_paired(
                    targets, first, scale * second, "ab", resampling=Resampling(n_resamples=200, seed=seed)
                )
                .differences[0]
                .p
            )
        assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.1
        assert 0.4 < np.mean(p) < 0.6


def test_the_better_model_and_its_margin_are_reported() -> None:
    targets, first, second = _models(4, clips=1000, labels=7, better=0.1)
    paired = compare_paired(targets, first, second, "abcdefg")
    turned = compare_paired(targets, second, first, "abcdefg")
    by_name = {difference.name: difference for difference in paired.differences}
    assert by_name["mean_pearson"].interval.low < 0.1 < by_name["mean_pearson"].interval.high
    assert by_name["mean_pearson"].p == pytest.approx(1 / 2001)
    for ours, theirs in zip(paired.differences[:3], turned.differences[:3], strict=True):
        assert (ours.better, theirs.better) == ("first", "second")
        assert (ours.interval.low, ours.p) == pytest.approx((-theirs.interval.high, theirs.p))
    assert by_name["mean_mae"].interval.value < 0  # less error is better
    assert len(paired.differences) == 3 + 7


def test_a_model_against_itself_and_against_a_constant() -> None:
    targets, first, _ = _models(5, clips=50)
    same = compare_paired(targets, first, first, "abc").differences[0]
    assert (same.interval.low, same.interval.high, same.p, same.better) == (0.0, 0.0, 1.0, None)
    constant = compare_paired(targets, first, np.full_like(first, 0.3), "abc").differences[0]
    assert (constant.second, constant.better) == (0.0, "first")
    with pytest.raises(ScoreError, match="no label varies"):
        compare_paired(np.full_like(targets, 0.5), first, first, "abc")


def _write(folder: Path, clips: int = 60) -> tuple[Path, Path, Path]:
    """Files of two models, and the labels."""
    targets, first, second = _models(6, clips, labels=2, better=0.4)
    files = []
    for name, values in (("a", first), ("b", second), ("labels", targets)):
        table = pd.DataFrame(values.clip(0, 1), columns=["Joy", "Fear"])
        ids = [f"[{number:05d}]" for number in range(clips)]
        table.insert(0, "path" if name == "labels" else "File_ID", ids)
        files.append(folder / f"{name}.csv")
        table.to_csv(files[-1], index=False)
    return files[0], files[1], files[2]


def test_files_are_matched_by_id_and_the_labels_may_be_a_table(tmp_path: Path) -> None:
    first, second, labels = _write(tmp_path)
    paired = compare_predictions(first, second, labels, out=tmp_path / "out.json")
    shuffled = pd.read_csv(second).sample(frac=1.0, random_state=0)
    shuffled.to_csv(second, index=False)
    assert compare_predictions(first, second, labels) == paired
    assert (paired.unit, paired.n_clips) == ("clip", 60)
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["differences"][0]["interval"]["value"] == paired.differences[0].interval.value
    table = pd.read_csv(labels)
    table["person"], table["Split"], table["Age"] = [f"p{row % 7}" for row in range(60)], "Val", 30
    table.to_csv(labels, index=False)
    for file in (first, second):
        pd.read_csv(file).sort_values("File_ID").iloc[:50].to_csv(file, index=False)
    by_person = compare_predictions(first, second, labels)
    assert (by_person.unit, by_person.n_units, by_person.n_clips) == ("person", 7, 50)


def test_files_of_different_clips_or_labels_are_refused(tmp_path: Path) -> None:
    first, second, labels = _write(tmp_path)
    whole = pd.read_csv(second)
    whole.iloc[2:].to_csv(second, index=False)
    with pytest.raises(DataError, match=r"not the same clips.*\[00000\]"):
        compare_predictions(first, second, labels)
    whole.rename(columns={"Joy": "Joi"}).to_csv(second, index=False)
    with pytest.raises(DataError, match=r"b\.csv: no column 'Joy'"):
        compare_predictions(first, second, labels)
    pd.concat([whole, whole.iloc[:1]]).to_csv(second, index=False)
    with pytest.raises(DataError, match=r"\[00000\] has two rows"):
        compare_predictions(first, second, labels)
    whole.astype(object).replace(whole.Joy[3], "much").to_csv(second, index=False)
    with pytest.raises(DataError, match=r"\[00003\].*not a number"):
        compare_predictions(first, second, labels)
    whole.to_csv(second, index=False)
    pd.read_csv(labels).iloc[5:].to_csv(labels, index=False)
    with pytest.raises(DataError, match=r"labels\.csv.*5 of 60.*\[00000\]"):
        compare_predictions(first, second, labels)
    with pytest.raises(DataError, match=r"person.*60 of 60"):
        compare_predictions(first, second, _write(tmp_path)[2], by="person")


def test_clips_without_labels_cannot_be_compared(tmp_path: Path) -> None:
    first, second, labels = _write(tmp_path)
    pd.read_csv(labels).assign(Joy="", Fear="").to_csv(labels, index=False)
    with pytest.raises(ScoreError, match="too few clips"):
        compare_predictions(first, second, labels)


def test_p_of_single_emotions_are_corrected_for_their_number() -> None:
    """Values of R's ``p.adjust(p, "holm")``."""
    np.testing.assert_allclose(correct_holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(correct_holm(np.array([0.9, 0.6])), [1.0, 1.0])
    generator = np.random.default_rng(0)
    targets, first, second = generator.normal(size=(3, 60, 6))
    paired = compare_paired(targets, first, second, list("abcdef"), Resampling(n_resamples=200))
    by_label = paired.differences[3:]
    np.testing.assert_allclose(
        [item.corrected_p for item in by_label], correct_holm(np.array([item.p for item in by_label]))
    )
    assert [item.corrected_p for item in paired.differences[:3]] == [
        item.p for item in paired.differences[:3]
    ]
