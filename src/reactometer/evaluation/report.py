"""Write one page with all scores of a model on a dataset."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reactometer.data.cache import PreparedRow, PreparedSet, load_clip
from reactometer.evaluation.audit import Audit, audit
from reactometer.evaluation.baselines import length_answers, readable_train, shuffled_scores
from reactometer.evaluation.bootstrap import Interval
from reactometer.evaluation.evaluate import Evaluation, evaluate, open_for
from reactometer.evaluation.metrics import Metrics, measure
from reactometer.evaluation.plots import as_svg, plot_calibration, plot_coverage, plot_scores, plot_subgroups
from reactometer.evaluation.robustness import Degradation, degrade, plot_degradation
from reactometer.io import make_folder, write_whole
from reactometer.models.folder import LoadedModel, load_model
from reactometer.records import FrameState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"

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
    """One part of the page."""

    title: str
    texts: Sequence[str] = ()
    figure: Figure | None = None
    tables: Sequence[Table] = ()
    clips: Sequence[ShownClip] = ()
    details: Mapping[str, str] | None = None  # "title" and "text"

    @property
    def anchor(self) -> str:
        """For links to it."""
        return self.title.lower().replace(" ", "-")


def report(  # noqa: PLR0913 - options by keyword
    model: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    split: str | None = None,
    by: str | None = None,
    groups: Sequence[str] = (),
    degradation: bool = True,
    cache: Path | str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Write ``report.html``, which opens anywhere without a network, and what it rests on.

    Args:
        model: a model folder.
        data: a data set, or a folder prepared before.
        out: the folder for ``report.html`` and all files that
            :func:`~reactometer.evaluation.evaluate.evaluate` and
            :func:`~reactometer.evaluation.robustness.degrade` write.
        split, by, groups: as of ``evaluate``.
        degradation: score the clips made harder to read, too; takes about twenty times as long as a score.
        cache: where prepared clips are kept when ``data`` is not prepared yet; default: the user's cache folder.
        device: as :func:`~reactometer.models.folder.load_model` takes it.
        progress: show bars on standard error.

    Returns:
        The page.

    Raises:
        DataError, ModelError, ScoreError, OutputError: as of what it calls.
    """
    loaded, out = load_model(model, device), make_folder(Path(out))
    prepared = open_for(loaded, data, cache, progress=progress)
    folder = prepared.folder
    evaluation = evaluate(loaded, folder, split=split, by=by, groups=groups, out=out, progress=progress)
    alone = {
        f"without {modality}": evaluate(
            loaded, folder, split=evaluation.split, without=modality, n_resamples=0, progress=progress
        ).metrics
        for modality in (("voice", "face") if loaded.sampling.looks and loaded.sampling.listens else ())
    }
    harder = None
    if degradation and not loaded.network.given_sizes:
        harder = degrade(model, folder, split=evaluation.split, by=by, out=out, device=device, progress=progress)
    found = audit(folder, progress=progress)
    name = Path(model).resolve().name
    sections = [
        _scores_section(prepared, evaluation, alone),
        *_sure_sections(evaluation),
        *([_degradation_section(harder)] if harder else []),
        *_group_sections(evaluation),
        _data_section(found),
        _worst_section(evaluation, of_media=prepared.feature_sizes is None),
        _origin_section(loaded),
    ]
    page = _render(
        title=f"{name} on {Path(data).resolve().name}",
        about=f"{evaluation.metrics.n_clips} clips of split {evaluation.split}; reactometer "
        f"{loaded.description.get('reactometer', '')}",
        headline=_headline(evaluation, alone),
        warnings=[f"Leak: {leak}" for leak in found.leaks],
        sections=sections,
    )
    return write_whole(out / PAGE, page)


def _render(**parts: object) -> str:
    from jinja2 import Environment, StrictUndefined

    template = files("reactometer.evaluation").joinpath(PAGE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(template).render(svg=as_svg, **parts)


def _headline(evaluation: Evaluation, alone: Mapping[str, Metrics]) -> dict[str, Any]:
    own = evaluation.intervals
    interval = own.mean["pearson"] if own else None
    beside = [(name, _shown(metrics.mean_pearson)) for name, metrics in alone.items()]
    metrics = evaluation.metrics
    beside += [("mean CCC", _shown(metrics.mean_ccc)), ("mean absolute error", _shown(metrics.mean_mae))]
    how = f"Resampled by {own.unit}: {own.n_units} of them, {own.n_resamples} times. " if own else ""
    left_out = f"Predicted without labels, not scored: {evaluation.n_without_labels}. "
    unread = f"Answered with the training mean: {len(evaluation.without_evidence)}. "
    return {
        "value": _shown(metrics.mean_pearson),
        "interval": _ends(interval) if interval else "",
        "beside": beside,
        "how": how
        + (left_out if evaluation.n_without_labels else "")
        + (unread if evaluation.without_evidence else ""),
    }


def _scores_section(prepared: PreparedSet, evaluation: Evaluation, alone: Mapping[str, Metrics]) -> Section:
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
        mean = _shown(float(np.mean(shuffled)))
        told = f"Between shuffled labels and predictions, 95 % of mean Pearson lie from {low:.3f} to {high:.3f}."
    rows.append(["labels shuffled among clips", mean, "", "", *[""] * len(labels)])
    rows.append(["a constant (the training mean)", "undefined", "", "", *[""] * len(labels)])
    return Section(
        "Scores",
        [told],
        plot_scores(metrics, evaluation.intervals, baselines),
        [Table(["", "mean Pearson", "mean CCC", "mean MAE", *labels], rows)],
    )


def _row(name: str, own: Metrics) -> list[str]:
    return [name, _shown(own.mean_pearson), _shown(own.mean_ccc), _shown(own.mean_mae), *map(_shown, own.pearson)]


def _sure_sections(evaluation: Evaluation) -> list[Section]:
    """Reliability and coverage, where they are known."""
    made = []
    if evaluation.reliability:
        own = evaluation.reliability
        rows = [[label.label, _with(label.slope), _with(label.intercept), _with(label.bias)] for label in own.by_label]
        text = (
            "Slope of labels on predictions: below 1, predictions are too far apart. Bias: mean prediction less label."
        )
        head = ["", "slope", "intercept", "bias"]
        made.append(
            Section(
                "Calibration",
                [text],
                plot_calibration(own),
                [Table(head, rows)],
            )
        )
    if evaluation.coverage:
        held = evaluation.coverage
        by = [[name, str(n), f"{share:.1%}"] for name, (n, share) in held.by_basis.items()]
        texts = [
            f"The model gives each prediction an interval that is to hold {held.asked:.0%} of labels; here they hold "
            f"{held.mean.value:.1%} ({held.mean.low:.1%} to {held.mean.high:.1%})"
            f"{', but were fitted to these very clips.' if held.fitted_here else '.'}"
        ]
        if held.abstained:
            kept = _shown(held.mean_pearson_kept)
            texts.append(f"It calls {len(held.abstained)} predictions better not used; over the others r is {kept}.")
        table = Table(["by", "clips", "labels held"], by)
        made.append(Section("Intervals", texts, plot_coverage(held), [table]))
    return made


def _degradation_section(harder: Degradation) -> Section:
    """What is lost where clips are harder to read."""
    rows = [
        [
            curve.nuisance,
            point.level,
            _shown(point.metrics.mean_pearson),
            _ends(point.intervals.mean["pearson"]),
            _with(point.loss),
        ]
        for curve in harder.curves
        for point in curve.points
    ]
    text = "The same clips, made harder to read; everything else stays as it is."
    table = Table(["", "level", "mean Pearson", "95 % interval", "loss"], rows)
    return Section("Degradation", [text], plot_degradation(harder), [table])


def _group_sections(evaluation: Evaluation) -> list[Section]:
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
                plot_subgroups(own),
                [Table(head, rows)],
            )
        )
    return made


def _data_section(found: Audit) -> Section:
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
    cues = [[name, _shown(own.value), _ends(own)] for name, own in found.cues.items()]
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


def _worst_section(evaluation: Evaluation, *, of_media: bool) -> Section:
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


def _origin_section(loaded: LoadedModel) -> Section:
    """Everything needed to say which model and which data these were."""
    about = [[key, str(value)] for key, value in loaded.description.get("data", {}).items() if value is not None]
    hashes = [[f"SHA-256 of {name}", digest] for name, digest in loaded.description.get("sha256", {}).items()]
    text = json.dumps([member.config.model_dump(mode="json") for member in loaded.each], indent=2)
    table = Table(["trained on", ""], [*about, *hashes])
    return Section("Made of", [], tables=[table], details={"title": "The whole configuration", "text": text})


def _shown(value: float | None) -> str:
    """Three decimals, or "undefined"."""
    return "undefined" if value is None else f"{value:.3f}"


def _ends(own: Interval | None) -> str:
    """The interval in words."""
    return f"{own.low:.3f} to {own.high:.3f}" if own else ""


def _with(own: Interval | None) -> str:
    return f"{own.value:.3f} ({_ends(own)})" if own else "undefined"


def _percent(own: Interval | None) -> str:
    return f"{own.value:.1%}" if own else "unknown"
