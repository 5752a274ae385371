"""Print evaluations, comparisons and audits on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from reactometer.cli.render import print_names, results, shown, with_interval
from reactometer.terminal import messages

if TYPE_CHECKING:
    from reactometer.data.ratings import Ratings
    from reactometer.data.splits import CleanSplit
    from reactometer.evaluation.audit import Audit
    from reactometer.evaluation.paired_test import Paired
    from reactometer.evaluation.subgroups import Group, Grouping
    from reactometer.inference.conformal import Uncertainty


def print_uncertainty(fitted: Uncertainty, folder: str) -> None:
    """Print how wide the intervals are for each set of modalities, and where they are saved."""
    own = fitted.fitted_on
    table = Table("by", "clips", "half width of the intervals, from the narrowest label to the widest")
    for name, basis in fitted.bases.items():
        widths = f"{min(basis.half_widths):.3f} to {max(basis.half_widths):.3f}"
        too_few = ": too few clips" if min(basis.half_widths) == 1.0 else ""
        table.add_row(name, str(basis.n_clips), widths + too_few)
    results.print(table)
    valid_for = f"clips of a new person ({own['n_people']} people)" if own["n_people"] else "new clips like these"
    fitted_on = f"{own['n_clips']} clips of {escape(own['name'])}, {own['split']}"
    results.print(f"{fitted.coverage:.0%} intervals, valid for {valid_for}; fitted on {fitted_on}")
    if not fitted.references:
        results.print("no warning about clips unlike the training data: this dataset has no split 'train'")
    results.print(f"model: {escape(folder)}")


def print_paired(paired: Paired, first: str, second: str) -> None:
    """Print every score of both, the difference with its interval and p, and which is better."""
    results.print(f"A: {escape(first)}\nB: {escape(second)}")
    level = paired.differences[0].interval.level
    table = Table("score", "A", "B", "A - B", f"{level:.0%} interval", "p")
    for difference in paired.differences:
        own = difference.interval
        table.add_row(
            _means().get(difference.name, difference.name.capitalize()),
            f"{difference.first:.4f}",
            f"{difference.second:.4f}",
            f"{own.value:+.4f}",
            f"{own.low:+.4f} to {own.high:+.4f}",
            f"{difference.p:.4f}",
            end_section=difference.name == [*_means()][-2],
        )
    results.print(table)
    what = "all" if paired.is_exact else f"{paired.n_resamples}"
    results.print(
        f"{paired.n_clips} clips; {paired.n_resamples} resamples and {what} permutations by {paired.unit} "
        f"({paired.n_units} of them); p of single emotions are not corrected for their number"
    )
    better = {"first": "A is better", "second": "B is better", None: "no difference shown"}[
        paired.differences[0].better
    ]
    results.print(f"{better} in mean Pearson")


def print_attribution(lines: Sequence[str], notes: Sequence[str]) -> None:
    """Print what moved each emotion, in words; what was missing goes to standard error."""
    for line in lines:
        results.print(escape(line))
    for note in notes:
        messages.print(f"note: {escape(note)}", style="yellow")


def _means() -> dict[str, str]:
    """What means over the labels are called in print; of the groups', the last one."""
    from reactometer.evaluation.metrics import KINDS

    return {**{f"mean_{kind}": f"mean {name}" for kind, name in KINDS.items()}, "mean_bias": "mean bias"}


def print_groups(groupings: Sequence[Grouping]) -> None:
    """Print a table a column, and the differences that are shown; a small group's numbers are in brackets."""
    for grouping in groupings:
        results.print(_group_table(grouping))
        small = [group.name for group in grouping.groups if group.is_small]
        for group in grouping.groups:
            for own in group.numbers:
                if own.is_shown and own.difference:
                    what = f"{own.measure} of {own.label}" if own.label else _means()[f"mean_{own.measure}"]
                    apart = with_interval(own.difference.value, own.difference)
                    results.print(f"{escape(group.name)}: {what} differs from all other clips' by {apart}")
        if small:
            results.print(f"in brackets: too few to tell apart from all others ({escape(', '.join(small))})")
    if groupings:
        n_shown = sum(own.is_shown for grouping in groupings for group in grouping.groups for own in group.numbers)
        results.print(
            f"{groupings[0].n_differences} differences looked at, {n_shown} shown: the Bonferroni-corrected interval "
            f"excludes 0\nbias: mean prediction less mean label; 95% intervals: {groupings[0].n_resamples} "
            f"resamples by {groupings[0].unit}"
        )


def _group_table(grouping: Grouping) -> Table:
    people = [] if grouping.unit == "clip" else [{"person": "people", "stimulus": "stimuli"}[grouping.unit]]
    table = Table(grouping.column, "clips", *people, "Pearson", "bias", "MAE", "no face", "no sound")
    for group in grouping.groups:
        counts = [str(group.n_clips), *([str(group.n_units)] if people else [])]
        scores = [_of_group(group, measure) for measure in ("pearson", "bias", "mae")]
        shares = [group.number(f"clips_without_{what}").value for what in ("face", "sound")]
        table.add_row(escape(group.name), *counts, *scores, *(f"{own.value:.0%}" if own else "" for own in shares))
    return table


def _of_group(group: Group, measure: str) -> str:
    """The mean over the emotions, with its interval unless the group is small."""
    own = group.number(measure).value
    if group.is_small:
        return f"({shown(own.value if own else None, 3)})"
    return with_interval(own.value if own else None, None if measure == "mae" else own, 3)


def print_audit(audit: Audit) -> None:
    """Print what the splits hold, what gives labels away, what could not be seen, and the leaks."""
    _print_splits(audit)
    _print_labels(audit)
    vectors = audit.vectors
    results.print(f"label vectors: {vectors.n_distinct} different ones over {vectors.n_clips} clips with labels")
    for split, share in vectors.shared.items():
        telling = f"{vectors.telling[split]:.1%} a vector that tells its stimulus"
        results.print(f"  {share:.1%} of {split} have one that a train clip has, {telling}")
    if audit.length_cue:
        score = with_interval(audit.length_cue.value, audit.length_cue)
        results.print(f"clip length as the only predictor: mean Pearson {score} on {audit.cue_split}")
    for text in audit.unseen:
        results.print(f"not seen: {escape(text)}")
    for leak in audit.leaks:
        results.print(f"leak: {escape(str(leak))}", style="red")
    if not audit.leaks:
        results.print("no leak found between splits")


def _print_splits(audit: Audit) -> None:
    table = Table("split", "clips", "with labels", "unreadable", "without face", "without sound", "frames with face")
    for split, own in audit.splits.items():
        counts = (own.n_clips, own.n_labelled, own.n_failed, own.n_without_face, own.n_without_sound)
        table.add_row(split, *map(str, counts), f"{own.face_share:.1%}")
    results.print(table)


def _print_labels(audit: Audit) -> None:
    """Print the range and mean of each label per split, and its drift from train."""
    table = Table("label", *(f"{split}: range, mean" for split in audit.splits), "drift from train")
    for place, label in enumerate(audit.labels):
        cells, drifts = [], []
        for split, own in audit.splits.items():
            known = bool(own.mean)
            cells.append(f"{own.low[place]:.2f}-{own.high[place]:.2f}, {own.mean[place]:.3f}" if known else "withheld")
            drifts += [f"{split} {own.drift[place]:+.2f}"] if own.drift and split != "train" else []
        table.add_row(escape(label), *cells, ", ".join(drifts))
    results.print(table)
    results.print("drift: mean less train's, in train's standard deviations")


def print_split(made: CleanSplit) -> None:
    """Say where the manifest is, how large the splits are and how far their labels are apart."""
    table = Table("split", "clips", *map(escape, made.labels))
    for name, own in made.means.items():
        table.add_row(name, str(made.n_clips[name]), *(f"{mean:.3f}" for mean in own))
    results.print(table)
    results.print(f"mean labels; {made.n_components} groups of clips that stay together")
    if made.n_left_out:
        results.print(f"{made.n_left_out} clips left out: without labels, or unusable")
    results.print(f"manifest: {escape(str(made.path))}")
    results.print(f"next: reactometer prepare {escape(str(made.path))} --out CACHE")


def print_ratings(gathered: Ratings) -> None:
    """Say what was averaged, how far raters agree on each label, and what was left out."""
    fewest, most = gathered.n_raters
    ratings = f"{fewest} ratings each" if fewest == most else f"{fewest} to {most} ratings each"
    results.print(f"{gathered.n_clips} clips, {'1 rating each' if fewest == most == 1 else ratings}")
    table = Table("label", "mean", "ICC of one", "ICC of their mean", "ceiling of a model's r")
    for (label, own), mean in zip(gathered.agreement.items(), gathered.means, strict=True):
        found = (own.icc_one, own.icc_mean, own.ceiling)
        table.add_row(escape(label), f"{mean:.3f}", *(shown(value, 3) for value in found))
    results.print(table)
    if most == 1:
        results.print("one rating a clip says nothing of how far raters agree")
    print_names("left out, without a rating of each label", gathered.incomplete)
    results.print(f"labels from 0 to 1: {escape(str(gathered.path))}")
    results.print(f"next: reactometer prepare {escape(str(gathered.path))} --out CACHE")
