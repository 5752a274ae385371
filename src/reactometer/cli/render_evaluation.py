"""Print evaluations, comparisons and audits on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from reactometer.cli.render import print_failed, print_names, print_table, results
from reactometer.terminal import format_score, messages

if TYPE_CHECKING:
    from reactometer.cli.demo import DemoResult
    from reactometer.data.ratings import Ratings
    from reactometer.data.splits import CleanSplit
    from reactometer.evaluation.audit import Audit
    from reactometer.evaluation.bootstrap import Interval
    from reactometer.evaluation.coverage import Coverage
    from reactometer.evaluation.evaluate import Evaluation
    from reactometer.evaluation.paired_test import Paired
    from reactometer.evaluation.subgroups import Group
    from reactometer.inference.conformal import Uncertainty

FEW_UNITS = 20
"""So few people, stimuli or clips give an interval that is too narrow (by simulation: docs/results.md)."""


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the table of scores and how the clips were counted."""
    from reactometer.evaluation.metrics import METRIC_NAMES

    metrics, intervals = evaluation.metrics, evaluation.intervals
    slopes = {own.label: own.slope for own in evaluation.reliability}
    rows = []
    for place, label in enumerate(metrics.labels):
        ends = [intervals.by_label[kind][place] if intervals else None for kind in METRIC_NAMES]
        scores = [values[place] for values in metrics.by_metric.values()]
        slope = slopes.get(label)
        rows.append([label, *map(with_interval, scores, ends), f"{slope.value:.2f}" if slope else ""])
    ends = [intervals.mean[kind] if intervals else None for kind in METRIC_NAMES]
    rows.append(["mean", *map(with_interval, metrics.means.values(), ends)])
    print_table(
        ("emotion", *METRIC_NAMES.values(), "slope"), rows, title=f"{evaluation.split}: {metrics.n_clips} clips"
    )
    if intervals:
        units = f"{intervals.n_resamples} resamples by {intervals.unit} ({intervals.n_units} of them)"
        few = ": so few make it too narrow" if intervals.n_units <= FEW_UNITS else ""
        results.print(f"(95% interval): {units}{few}; slope: of truth on prediction, 1 where calibrated")
    if evaluation.coverage:
        _print_coverage(evaluation.coverage)
    if evaluation.person_norm:
        results.print(f"per person: {evaluation.person_norm}")
    if evaluation.n_without_labels:
        results.print(f"{evaluation.n_without_labels} clips without labels: predicted, not scored")
    print_names("answered with the training mean (nothing seen or heard)", evaluation.without_input)
    print_failed(evaluation.failed)
    _print_groups(evaluation.groups)


def _print_coverage(coverage: Coverage) -> None:
    own, by_label, widths = coverage.mean, coverage.by_label.values(), coverage.widths.values()
    results.print(
        f"{coverage.asked:.0%} intervals of the predictions ({min(widths):.2f} to {max(widths):.2f} wide) hold "
        f"{own.value:.1%} of the labels ({own.low:.1%} to {own.high:.1%}; by label {min(by_label):.0%} to "
        f"{max(by_label):.0%}){', but were fitted to these very clips' if coverage.is_in_sample else ''}"
    )
    if coverage.warnings:
        results.print(f"clips with a warning: {len(coverage.warnings)}")


def _print_groups(groups: Sequence[Group]) -> None:
    """Print one table per column, and the differences that are shown; a small group's numbers are in brackets."""
    header = ("clips", "Pearson", "bias", "MAE", "no face", "no sound")
    for column, own in groupby(groups, key=lambda group: group.column):
        print_table((column, *header), map(_group_row, own))
    for group in groups:
        for number in group.numbers:
            if number.is_significant:
                what = f"{number.measure} of {number.label}" if number.label else f"mean {number.measure}"
                apart = with_interval(number.difference.value, number.difference) if number.difference else ""
                results.print(f"{group.name}: {what} differs from all other clips' by {apart}")
    if groups:
        looked_at = [own for group in groups if not group.is_small for own in group.numbers if own.difference]
        results.print(
            f"{len(looked_at)} differences looked at, {sum(own.is_significant for own in looked_at)} shown: the "
            "Bonferroni-corrected interval excludes 0; bias: mean prediction less mean label; in brackets: too few to "
            "tell apart from all others"
        )


def _group_row(group: Group) -> list[str]:
    scores = []
    for measure in ("pearson", "bias", "mae"):
        own = group.number(measure).value
        score = with_interval(own.value if own else None, None if group.is_small or measure == "mae" else own)
        scores.append(f"({score})" if group.is_small else score)
    shares = (f"{group.without_face:.0%}", f"{group.without_sound:.0%}")
    return [group.name, str(group.n_clips), *scores, *shares]


def print_demo(result: DemoResult) -> None:
    """Print the demo's scores, the baselines beside them, and where everything is."""
    print_evaluation(result.evaluation)
    scores = {"face and voice": result.evaluation.metrics.mean_pearson, **result.beside}
    print_table(
        ("mean Pearson on people never seen", ""), [(name, format_score(score)) for name, score in scores.items()]
    )
    for name, path in result.files.items():
        results.print(f"{name}: {path}")
    results.print(f"done in {result.seconds:.0f} s")


def print_uncertainty(fitted: Uncertainty, folder: str) -> None:
    """Print how wide the intervals are for each set of modalities, and where they are saved."""
    own, rows = fitted.fitted_on, []
    for name, basis in fitted.by_modalities.items():
        narrowest, widest = min(basis.half_widths), max(basis.half_widths)
        too_few = ": too few clips" if narrowest == 1.0 else ""
        rows.append((name, str(basis.n_clips), f"{narrowest:.3f} to {widest:.3f}{too_few}"))
    print_table(("by", "clips", "half width of the intervals, from the narrowest label to the widest"), rows)
    valid_for = f"clips of a new person ({own['n_people']} people)" if own["n_people"] else "new clips like these"
    fitted_on = f"{own['n_clips']} clips of {own['name']}, {own['split']}"
    results.print(f"{fitted.coverage:.0%} intervals, valid for {valid_for}; fitted on {fitted_on}")
    if not fitted.references:
        results.print("no warning about clips unlike the training data: this dataset has no split 'train'")
    results.print(f"model: {folder}")


def print_paired(paired: Paired, first: str, second: str) -> None:
    """Print every score of both, the difference with its interval and p, and which is better."""
    results.print(f"A: {first}\nB: {second}")
    rows = [
        (
            own.name.replace("_", " "),
            f"{own.first:.4f}",
            f"{own.second:.4f}",
            f"{own.interval.value:+.4f}",
            f"{own.interval.low:+.4f} to {own.interval.high:+.4f}",
            f"{own.p:.4f}",
        )
        for own in paired.differences
    ]
    print_table(("score", "A", "B", "A - B", "95% interval", "p"), rows)
    results.print(
        f"{paired.n_clips} clips; {paired.n_resamples} resamples and permutations by {paired.unit} "
        f"({paired.n_units} of them); p of single emotions are not corrected for their number"
    )
    better = {"first": "A is better", "second": "B is better", None: "no difference shown"}
    results.print(f"{better[paired.differences[0].better]} in mean Pearson")


def print_attribution(lines: Sequence[str], notes: Sequence[str]) -> None:
    """Print what moved each emotion, in words; what was missing goes to standard error."""
    results.print("\n".join(lines))
    for note in notes:
        messages.print(f"note: {note}", style="yellow")


def print_audit(audit: Audit) -> None:
    """Print the content of the splits, what gives labels away, what could not be checked, and the leaks."""
    rows = []
    for split, own in audit.splits.items():
        counts = (own.n_clips, own.n_labelled, own.n_failed, own.n_without_face, own.n_without_sound)
        rows.append([split, *map(str, counts), f"{own.face_share:.1%}"])
    header = ("split", "clips", "with labels", "unreadable", "without face", "without sound", "frames with face")
    print_table(header, rows)
    rows = []
    for place, label in enumerate(audit.labels):
        splits = audit.splits.values()
        means = [f"{own.mean[place]:.3f} ({own.drift[place]:+.2f})" if own.drift else "unknown" for own in splits]
        rows.append([label, *means])
    print_table(("mean label", *audit.splits), rows)
    results.print("in brackets: drift, the mean less train's in train's standard deviations")
    vectors = audit.vectors
    results.print(f"label vectors: {vectors.n_distinct} different ones over {vectors.n_clips} clips with labels")
    for split, share in vectors.shared.items():
        identifying = f"{vectors.identifying[split]:.1%} a vector that identifies its stimulus"
        results.print(f"  {share:.1%} of {split} share a vector with train, {identifying}")
    if audit.length_baseline:
        score = with_interval(audit.length_baseline.value, audit.length_baseline)
        results.print(f"clip length as the only predictor: mean Pearson {score} on {audit.length_split}")
    for text in audit.unseen:
        results.print(f"not checked: {text}")
    for leak in audit.leaks:
        results.print(f"leak: {leak}", style="red")
    if not audit.leaks:
        results.print("no leak found between splits")


def print_split(made: CleanSplit) -> None:
    """Print where the manifest is, how large the splits are and how far their labels are apart."""
    rows = [(name, str(made.n_clips[name]), *(f"{mean:.3f}" for mean in own)) for name, own in made.means.items()]
    print_table(("split", "clips", *made.labels), rows)
    results.print(f"mean labels; {made.n_components} groups of clips that stay together")
    if made.n_left_out:
        results.print(f"{made.n_left_out} clips left out: without labels, or unusable")
    results.print(f"manifest: {made.path}")
    results.print(f"next: reactometer prepare {made.path} --out CACHE")


def print_ratings(gathered: Ratings) -> None:
    """Print what was averaged, how far raters agree on each label, and what was left out."""
    fewest, most = gathered.n_raters
    results.print(f"{gathered.n_clips} clips, {fewest if fewest == most else f'{fewest} to {most}'} ratings each")
    rows = []
    for (label, own), mean in zip(gathered.agreement.items(), gathered.means, strict=True):
        agreement = (own.icc_one, own.icc_mean, own.ceiling)
        rows.append((label, f"{mean:.3f}", *(format_score(value, 3) for value in agreement)))
    print_table(("label", "mean", "ICC of one", "ICC of their mean", "ceiling of a model's r"), rows)
    print_names("left out, without a rating of each label", gathered.incomplete)
    results.print(f"labels from 0 to 1: {gathered.path}")
    results.print(f"next: reactometer prepare {gathered.path} --out CACHE")


def with_interval(value: float | None, interval: Interval | None) -> str:
    """Format a score with its interval: "0.893 (0.85–0.92)"."""
    ends = f" ({interval.low:.2f}–{interval.high:.2f})" if interval else ""
    return f"{format_score(value, 3)}{ends}"
