"""A model and a data set -> one page on all there is to say of its scores, and the model card of the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from reactometer.evaluation.audit import audit
from reactometer.evaluation.degradation import degrade
from reactometer.evaluation.evaluate import Evaluation, evaluate, open_for
from reactometer.evaluation.metrics import Metrics
from reactometer.evaluation.sections import (
    data_section,
    degradation_section,
    ends,
    group_sections,
    origin_section,
    scores_section,
    shown,
    sure_sections,
    worst_section,
)
from reactometer.io import make_folder, write_whole
from reactometer.models.card import model_card
from reactometer.models.folder import load_model

PAGE, CARD = "report.html", "card.md"


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
        out: the folder for ``report.html``, ``card.md`` (the model card from the same figures), and all that
            :func:`~reactometer.evaluation.evaluate.evaluate` and
            :func:`~reactometer.evaluation.degradation.degrade` write.
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
    write_whole(out / CARD, model_card(loaded, name, evaluation.as_json()))
    sections = [
        scores_section(prepared, evaluation, alone),
        *sure_sections(evaluation),
        *([degradation_section(harder)] if harder else []),
        *group_sections(evaluation),
        data_section(found),
        worst_section(evaluation, of_media=prepared.feature_sizes is None),
        origin_section(loaded),
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
    import plotly.offline
    from jinja2 import Environment, StrictUndefined

    template = files("reactometer.evaluation").joinpath(PAGE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(template).render(plotly=plotly.offline.get_plotlyjs(), **parts)


def _headline(evaluation: Evaluation, alone: Mapping[str, Metrics]) -> dict[str, Any]:
    own = evaluation.intervals
    interval = own.mean["pearson"] if own else None
    beside = [(name, shown(metrics.mean_pearson)) for name, metrics in alone.items()]
    metrics = evaluation.metrics
    beside += [("mean CCC", shown(metrics.mean_ccc)), ("mean absolute error", shown(metrics.mean_mae))]
    how = f"Resampled by {own.unit}: {own.n_units} of them, {own.n_resamples} times. " if own else ""
    left_out = f"Predicted without labels, not scored: {evaluation.n_without_labels}. "
    unread = f"Answered with the training mean: {len(evaluation.without_evidence)}. "
    return {
        "value": shown(metrics.mean_pearson),
        "interval": ends(interval) if interval else "",
        "beside": beside,
        "how": how
        + (left_out if evaluation.n_without_labels else "")
        + (unread if evaluation.without_evidence else ""),
    }
