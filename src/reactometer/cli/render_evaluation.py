"""Print evaluations, comparisons and audits on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import ceil
from typing import TYPE_CHECKING

from reactometer.cli.render import print_failed, print_names, print_table, results
from reactometer.terminal import format_score

if TYPE_CHECKING:
    from reactometer.cli.demo import DemoResult
    from reactometer.data.ratings import Ratings
    from reactometer.data.splits import CleanSplit
    from reactometer.evaluation.audit import Audit
    from reactometer.evaluation.bootstrap import Interval
    from reactometer.evaluation.calibration import Coverage
    from reactometer.evaluation.evaluate import Evaluation
    from reactometer.evaluation.paired_test import Paired
    from reactometer.evaluation.subgroups import Group
    from reactometer.inference.conformal import Uncertainty

MAX_FEW_UNITS = 20
"""Maximum number of units whose intervals are too narrow (by simulation: docs/project/lab-notes.md)."""


BETA_QUANTILES = (0.05, 0.95)
"""In 90% of calibrations, coverage of new clips is between these quantiles (Vovk, ACML 2012)."""


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the table of scores and how the clips were counted."""
    from reactometer.evaluation.metrics import METRIC_NAMES

    metrics, intervals = evaluation.metrics, evaluation.intervals
    slopes = {item.label: item.slope for item in evaluation.reliability}
    rows = []
    for index, label in enumerate(metrics.labels):
        bounds = [intervals.by_label[kind][index] if intervals else None for kind in METRIC_NAMES]
        scores = [values[index] for values in metrics.by_metric.values()]
        slope = slopes.get(label)
        rows.append([label, *map(with_interval, scores, bounds), f"{slope.value:.2f}" if slope else ""])
    bounds = [intervals.mean[kind] if intervals else None for kind in METRIC_NAMES]
    rows.append(["mean", *map(with_interval, metrics.means.values(), bounds)])
    title = f"{evaluation.split}: {metrics.n_clips} clips"
    label = evaluation.overlap.label.replace(evaluation.split, "")
    header = ("emotion", *METRIC_NAMES.values(), "slope")
    print_table(header, rows, title=f"{title}, {label}" if label else title)
    if evaluation.overlap.note:
        results.print(evaluation.overlap.note, style="red" if evaluation.overlap.n_train else None)
    if folds := evaluation.pearson_by_fold:
        mean = sum(folds) / len(folds)
        results.print(
            f"mean Pearson within each fold: {mean:.3f} on average ({min(folds):.2f} to {max(folds):.2f}); "
            "if it is far above the score of all clips, the models of the folds differ in scale"
        )
    if intervals:
        units = f"{intervals.n_resamples} resamples by {intervals.unit} ({intervals.n_units} of them)"
        few = ": too few, so the intervals are too narrow" if intervals.n_units <= MAX_FEW_UNITS else ""
        results.print(f"(95% interval): {units}{few}; slope: of target on prediction, 1 if calibrated")
    if evaluation.coverage:
        _print_coverage(evaluation.coverage)
    if evaluation.person_norm:
        results.print(f"per person: {evaluation.person_norm}")
    if evaluation.n_without_labels:
        results.print(f"{evaluation.n_without_labels} clips without labels: predicted, not scored")
    print_names("predicted as the training mean (no usable face or voice)", evaluation.without_input)
    print_failed(evaluation.failed)
    _print_groups(evaluation.groups)


def _print_coverage(coverage: Coverage) -> None:
    rows = {"all": coverage.overall, **coverage.by_size}
    print_table(
        (f"{coverage.nominal:.0%} intervals: prediction", "labels", "inside (95% interval)", "mean width"),
        [
            (name, str(item.n_labels), with_interval(item.share.value, item.share), f"{item.width:.2f}")
            for name, item in rows.items()
        ],
    )
    by_label = [item.share.value for item in coverage.by_label.values()]
    fitted = "; the intervals were fitted to these clips" if coverage.is_in_sample else ""
    results.print(f"inside, by emotion: {min(by_label):.0%} to {max(by_label):.0%}{fitted}")
    if coverage.warnings:
        results.print(f"clips with a warning: {len(coverage.warnings)}")


def _print_groups(groups: Sequence[Group]) -> None:
    """Print one table per column, and the significant differences; a small group's metrics are in
    brackets."""
    header = ("clips", "Pearson", "bias", "MAE", "no face", "no sound")
    for column, members in groupby(groups, key=lambda group: group.column):
        print_table((column, *header), map(_group_row, members))
    for group in groups:
        for number in group.metrics:
            if number.is_significant:
                metric_name = (
                    f"{number.metric} of {number.label}" if number.label else f"mean {number.metric}"
                )
                difference = (
                    with_interval(number.difference.value, number.difference) if number.difference else ""
                )
                results.print(f"{group.name}: {metric_name} differs from all other clips' by {difference}")
    if groups:
        tested = [item for group in groups if not group.is_small for item in group.metrics if item.difference]
        results.print(
            f"{len(tested)} differences tested, {sum(item.is_significant for item in tested)} significant: "
            "the "
            "Bonferroni-corrected interval excludes 0; bias: mean prediction − mean label; in brackets: too "
            "few "
            "units to compare"
        )


def _group_row(group: Group) -> list[str]:
    scores = []
    for measure in ("pearson", "bias", "mae"):
        value = group.metric(measure).value
        score = with_interval(
            value.value if value else None, None if group.is_small or measure == "mae" else value
        )
        scores.append(f"({score})" if group.is_small else score)
    shares = (f"{group.without_face:.0%}", f"{group.without_sound:.0%}")
    return [group.name, str(group.n_clips), *scores, *shares]


def print_demo(result: DemoResult) -> None:
    """Print the scores, the baselines and the files of the demo."""
    print_evaluation(result.evaluation)
    scores = {"face and voice": result.evaluation.metrics.mean_pearson, **result.baselines}
    print_table(
        ("mean Pearson on new people", ""), [(name, format_score(score)) for name, score in scores.items()]
    )
    for name, path in result.files.items():
        results.print(f"{name}: {path}")
    results.print(f"done in {result.seconds:.0f} s")


def print_uncertainty(fitted: Uncertainty, folder: str) -> None:
    """Print how wide the intervals are for each set of modalities, and where they are saved."""
    from scipy.stats import beta

    item, rows = fitted.fitted_on, list[tuple[str, ...]]()
    unit = "people" if item["n_people"] else "clips"
    for name, basis in fitted.by_modalities.items():
        rank = ceil((basis.n_units + 1) * fitted.coverage - 1e-9)  # of the residual that is the half width
        reach = "too few"
        if rank <= basis.n_units:
            low, high = (beta.ppf(level, rank, basis.n_units + 1 - rank) for level in BETA_QUANTILES)
            reach = f"{low:.0%} to {high:.0%}"
        counts = (str(basis.n_clips), str(basis.n_bins), str(basis.n_units))
        rows.append((name, *counts, f"{basis.width:.2f}", reach))
    print_table(("by", "clips", "bins", f"{unit} per bin", "mean width", "coverage per bin"), rows)
    results.print(
        f"coverage per bin: share of new labels inside, in 90% of calibrations with this number of {unit}"
    )
    valid_for = (
        f"clips of a new person ({item['n_people']} people)" if item["n_people"] else "new clips like these"
    )
    fitted_on = f"{item['n_clips']} clips of {item['name']}, {item['split']}"
    results.print(f"{fitted.coverage:.0%} intervals, valid for {valid_for}; fitted on {fitted_on}")
    results.print(f"model: {folder}")


def print_paired(paired: Paired, first: str, second: str) -> None:
    """Print the scores of both models, their difference with interval and p, and the better model."""
    results.print(f"A: {first}\nB: {second}")
    rows = [
        (
            item.name.replace("_", " "),
            f"{item.first:.4f}",
            f"{item.second:.4f}",
            f"{item.interval.value:+.4f}",
            f"{item.interval.low:+.4f} to {item.interval.high:+.4f}",
            f"{item.corrected_p:.4f}",
        )
        for item in paired.differences
    ]
    print_table(("score", "A", "B", "A - B", "95% interval", "p"), rows)
    results.print(
        f"{paired.n_clips} clips; {paired.n_resamples} resamples and permutations by {paired.unit} "
        f"({paired.n_units} of them); p of single emotions are corrected for their number (Holm)"
    )
    better = {"first": "A is better", "second": "B is better", None: "no significant difference"}
    results.print(f"{better[paired.differences[0].better]} in mean Pearson")


def print_audit(audit: Audit) -> None:
    """Print the splits, the label statistics, the limitations and the leaks."""
    rows = []
    for split, item in audit.splits.items():
        counts = (item.n_clips, item.n_labelled, item.n_failed, item.n_without_face, item.n_without_sound)
        rows.append([split, *map(str, counts), f"{item.face_share:.1%}"])
    header = (
        "split",
        "clips",
        "with labels",
        "unreadable",
        "without face",
        "without sound",
        "frames with face",
    )
    print_table(header, rows)
    rows = []
    for index, label in enumerate(audit.labels):
        splits = audit.splits.values()
        means = [
            f"{item.mean[index]:.3f} ({item.drift[index]:+.2f})" if item.drift else "unknown"
            for item in splits
        ]
        rows.append([label, *means])
    print_table(("mean label", *audit.splits), rows)
    results.print("in brackets: drift, (mean − mean of train) / standard deviation of train")
    vectors = audit.label_vectors
    results.print(
        f"label vectors: {vectors.n_distinct} different ones over {vectors.n_clips} clips with labels"
    )
    for split, share in vectors.shared.items():
        identifying = f"{vectors.identifying[split]:.1%} a vector that identifies its stimulus"
        results.print(f"  {share:.1%} of {split} share a vector with train, {identifying}")
    if audit.length_baseline:
        score = with_interval(audit.length_baseline.value, audit.length_baseline)
        results.print(f"clip length as the only predictor: mean Pearson {score} on {audit.length_split}")
    for text in audit.limitations:
        results.print(f"not checked: {text}")
    for leak in audit.leaks:
        results.print(f"leak: {leak}", style="red")
    if not audit.leaks:
        results.print("no leak found between splits")


def print_split(result: CleanSplit) -> None:
    """Print the path of the manifest, and the size and mean labels of each split."""
    rows = [
        (name, str(result.n_clips[name]), *(f"{mean:.3f}" for mean in item))
        for name, item in result.means.items()
    ]
    print_table(("split", "clips", *result.labels), rows)
    keys = " and ".join(result.disjoint)
    results.print(f"mean labels; {result.n_components} groups of clips that share no {keys} with each other")
    if result.sources:
        sources = ", ".join(
            f"{name} from {source}" for name, source in result.sources.items() if result.n_clips[name]
        )
        results.print(f"within the existing splits, because people are unknown or by request: {sources}")
        results.print(f"{result.n_dropped} clips dropped, because another split has their {keys}")
    if result.n_left_out:
        results.print(f"{result.n_left_out} clips left out: without labels, or unusable")
    results.print(f"manifest: {result.path}")
    results.print(f"next: reactometer prepare {result.path} --out CACHE")


def print_ratings(result: Ratings) -> None:
    """Print the number of ratings, the agreement on each label, and the clips left out."""
    min_raters, max_raters = result.n_raters
    n_ratings = str(min_raters) if min_raters == max_raters else f"{min_raters} to {max_raters}"
    results.print(f"{result.n_clips} clips, {n_ratings} ratings each")
    rows = []
    for (label, item), mean in zip(result.agreement.items(), result.means, strict=True):
        agreement = (item.icc_one, item.icc_mean, item.ceiling)
        rows.append((label, f"{mean:.3f}", *(format_score(value, 3) for value in agreement)))
    print_table(("label", "mean", "ICC of one", "ICC of their mean", "ceiling of a model's r"), rows)
    print_names("left out, without a rating of each label", result.incomplete)
    results.print(f"labels from 0 to 1: {result.path}")
    results.print(f"next: reactometer prepare {result.path} --out CACHE")


def with_interval(value: float | None, interval: Interval | None) -> str:
    """Format a score with its interval: "0.893 (0.85–0.92)"."""
    bounds = f" ({interval.low:.2f}–{interval.high:.2f})" if interval else ""
    return f"{format_score(value, 3)}{bounds}"
