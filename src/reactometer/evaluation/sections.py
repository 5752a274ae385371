"""What a report says, section by section: text, tables, figures."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reactometer.data.cache import PreparedRow, PreparedSet, load_clip
from reactometer.evaluation import figures
from reactometer.evaluation.audit import Audit
from reactometer.evaluation.baselines import length_answers, readable_train, shuffled_scores
from reactometer.evaluation.degradation import Degradation
from reactometer.evaluation.evaluate import Evaluation
from reactometer.evaluation.metrics import Metrics, measure
from reactometer.evaluation.resample import Interval
from reactometer.models.folder import LoadedModel
from reactometer.records import FrameState

WORST = 8
"""Clips that are shown."""

Cells = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Table:
    """Text in rows and columns."""

    head: Sequence[str]
    rows: Cells


@dataclass(frozen=True)
class ShownClip:
    """One clip as a picture, and what was said of it."""

    name: str
    picture: str | None  # JPEG, base64
    error: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Section:
    """One part of the page; ``figure`` is HTML, all else is plain text."""

    title: str
    texts: Sequence[str] = ()
    figure: str = ""
    tables: Sequence[Table] = ()
    clips: Sequence[ShownClip] = ()
    details: Mapping[str, str] | None = None  # "title" and "text"

    @property
    def anchor(self) -> str:
        """For links to it."""
        return self.title.lower().replace(" ", "-")


def scores_section(prepared: PreparedSet, evaluation: Evaluation, alone: Mapping[str, Metrics]) -> Section:
    """Each emotion, against what needs no face and no voice."""
    metrics, labels = evaluation.metrics, evaluation.metrics.labels
    baselines: dict[str, Metrics] = {}
    rows = [_row("this model", metrics), *(_row(f"the same {name}", own) for name, own in alone.items())]
    if readable_train(prepared):
        baselines["clip length alone"] = measure(evaluation.truth, length_answers(prepared, evaluation.rows), labels)
        rows.append(_row("clip length alone", baselines["clip length alone"]))
    shuffled = shuffled_scores(evaluation.truth, evaluation.guess, labels)
    mean, told = "undefined", "No shuffled labels have a mean Pearson: predictions or labels do not vary."
    if len(shuffled):
        low, high = np.quantile(shuffled, [0.025, 0.975])
        mean = shown(float(np.mean(shuffled)))
        told = f"Between shuffled labels and predictions, 95 % of mean Pearson lie from {low:.3f} to {high:.3f}."
    rows.append(["labels shuffled among clips", mean, "", "", *[""] * len(labels)])
    rows.append(["a constant (the training mean)", "undefined", "", "", *[""] * len(labels)])
    return Section(
        "Scores",
        [told],
        _drawn(figures.emotions(metrics, evaluation.intervals, baselines)),
        [Table(["", "mean Pearson", "mean CCC", "mean MAE", *labels], rows)],
    )


def _row(name: str, own: Metrics) -> list[str]:
    return [name, shown(own.mean_pearson), shown(own.mean_ccc), shown(own.mean_mae), *map(shown, own.pearson)]


def sure_sections(evaluation: Evaluation) -> list[Section]:
    """Reliability and coverage, where they are known."""
    made = []
    if evaluation.reliability:
        own = evaluation.reliability
        rows = [[label.label, _with(label.slope), _with(label.intercept), _with(label.bias)] for label in own.by_label]
        text = (
            "Slope of labels on predictions: below 1, predictions are too far apart. Bias: mean prediction less label."
        )
        head = ["", "slope", "intercept", "bias"]
        made.append(Section("Calibration", [text], _drawn(figures.reliability(own)), [Table(head, rows)]))
    if evaluation.coverage:
        held = evaluation.coverage
        by = [[name, str(n), f"{share:.1%}"] for name, (n, share) in held.by_basis.items()]
        texts = [
            f"The model gives each prediction an interval that is to hold {held.asked:.0%} of labels; here they hold "
            f"{held.mean.value:.1%} ({held.mean.low:.1%} to {held.mean.high:.1%})"
            f"{', but were fitted to these very clips.' if held.fitted_here else '.'}"
        ]
        if held.abstained:
            kept = shown(held.mean_pearson_kept)
            texts.append(f"It calls {len(held.abstained)} predictions better not used; over the others r is {kept}.")
        table = Table(["by", "clips", "labels held"], by)
        made.append(Section("Intervals", texts, _drawn(figures.coverage(held)), [table]))
    return made


def degradation_section(harder: Degradation) -> Section:
    """What is lost where clips are harder to read."""
    rows = [
        [
            curve.nuisance,
            point.level,
            shown(point.metrics.mean_pearson),
            ends(point.intervals.mean["pearson"]),
            _with(point.loss),
        ]
        for curve in harder.curves
        for point in curve.points
    ]
    text = "The same clips, made harder to read; everything else stays as it is."
    table = Table(["", "level", "mean Pearson", "95 % interval", "loss"], rows)
    return Section("Degradation", [text], _drawn(figures.degradation(harder)), [table])


def group_sections(evaluation: Evaluation) -> list[Section]:
    """Each column of the manifest that was asked for."""
    made = []
    for own in evaluation.groups:
        rows = [
            [
                f"{group.name}{' (too few)' if group.is_small else ''}",
                f"{group.n_clips}",
                *(_with(group.number(measure).value) for measure in ("pearson", "bias", "mae")),
                *(_percent(group.number(share).value) for share in ("clips_without_face", "clips_without_sound")),
                "; ".join(
                    f"{one.measure}{f' of {one.label}' if one.label else ''}" for one in group.numbers if one.is_shown
                )
                or "none",
            ]
            for group in own.groups
        ]
        looked = (
            f"A difference from all other clips counts as shown only where an interval wide enough for all "
            f"{own.n_differences} differences excludes 0; one that is not shown may still be there."
        )
        text = looked if own.n_differences else "No group is large enough for a difference to be claimed."
        head = ["", "clips", "mean Pearson", "bias", "MAE", "without face", "without sound", "differences shown"]
        made.append(
            Section(
                f"Groups by {own.column}",
                [f"Resampled by {own.unit}. {text}"],
                _drawn(figures.groups(own)),
                [Table(head, rows)],
            )
        )
    return made


def data_section(found: Audit) -> Section:
    """What the score is worth: leaks, what gives labels away, what is missing."""
    splits = [
        [
            name,
            str(own.n_clips),
            str(own.n_labelled),
            str(own.n_failed),
            str(own.n_without_face),
            str(own.n_without_sound),
            f"{own.face_share:.1%}",
        ]
        for name, own in found.splits.items()
    ]
    cues = [[name, shown(own.value), ends(own)] for name, own in found.cues.items()]
    texts = [f"Leak: {leak}." for leak in found.leaks] or ["No leak was found between splits."]
    shares = "; ".join(
        f"{share:.1%} of {split} have one that a train clip has" for split, share in found.vectors.shared.items()
    )
    texts.append(f"{found.vectors.n_distinct} different label vectors over {found.vectors.n_clips} clips; {shares}.")
    texts += [f"Not seen: {text}." for text in found.unseen]
    head = ["split", "clips", "with labels", "unreadable", "without face", "without sound", "frames with face"]
    tables = [Table(head, splits)]
    if cues:
        tables.append(Table([f"one number alone, on {found.cue_split}", "mean Pearson", "95 % interval"], cues))
    return Section("Data", texts, tables=tables)


def worst_section(evaluation: Evaluation, *, of_media: bool) -> Section:
    """The clips on which the model was furthest off, with a frame of each where there are such."""
    rows, truth, guess, labels = evaluation.rows, evaluation.truth, evaluation.guess, evaluation.metrics.labels
    errors = np.abs(truth - guess)  # (clips, L)
    clips = []
    for place in np.argsort(-errors.mean(axis=1), kind="stable")[:WORST]:
        most = np.argsort(-errors[place], kind="stable")[:3]
        lines = [f"{labels[own]}: label {truth[place, own]:.2f}, said {guess[place, own]:.2f}" for own in most]
        picture = _picture(rows[place]) if of_media else None
        clips.append(ShownClip(rows[place].clip.clip_id, picture, f"{errors[place].mean():.3f}", lines))
    frame = "; a frame from the middle of each" if of_media else ""
    return Section("Worst clips", [f"Those with the largest mean absolute error{frame}."], clips=clips)


def _picture(row: PreparedRow) -> str | None:
    if row.file is None or row.n_samples == 0:
        return None
    seen = [sample.crop_jpeg for sample in load_clip(row).samples if sample.state is FrameState.FACE]
    middle = seen[len(seen) // 2] if seen else None
    return b64encode(middle).decode("ascii") if middle else None


def origin_section(loaded: LoadedModel) -> Section:
    """Everything needed to say which model and which data these were."""
    about = [[key, str(value)] for key, value in loaded.description.get("data", {}).items() if value is not None]
    hashes = [[f"SHA-256 of {name}", digest] for name, digest in loaded.description.get("sha256", {}).items()]
    text = json.dumps([member.config.model_dump(mode="json") for member in loaded.each], indent=2)
    table = Table(["trained on", ""], [*about, *hashes])
    return Section("Made of", [], tables=[table], details={"title": "The whole configuration", "text": text})


def shown(value: float | None) -> str:
    """Three decimals, or "undefined"."""
    return "undefined" if value is None else f"{value:.3f}"


def ends(own: Interval | None) -> str:
    """The interval in words."""
    return f"{own.low:.3f} to {own.high:.3f}" if own else ""


def _with(own: Interval | None) -> str:
    return f"{own.value:.3f} ({ends(own)})" if own else "undefined"


def _percent(own: Interval | None) -> str:
    return f"{own.value:.1%}" if own else "unknown"


def _drawn(figure: Any) -> str:
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
    )
    return html
