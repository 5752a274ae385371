"""Scores -> Plotly figures for the report: each tells its story without the text around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from reactometer.evaluation.coverage import Coverage
from reactometer.evaluation.degradation import Degradation
from reactometer.evaluation.groups import Grouping
from reactometer.evaluation.metrics import Metrics
from reactometer.evaluation.reliability import Reliability
from reactometer.evaluation.resample import Interval, Intervals

INK, MODEL, GREY, WARN = "#22303c", "#1f6f8b", "#8a949c", "#b5482f"
COLUMNS = 4


def emotions(metrics: Metrics, intervals: Intervals | None, baselines: Mapping[str, Metrics]) -> go.Figure:
    """Pearson of each emotion with its interval, and what the baselines score."""
    figure = go.Figure()
    ends = intervals.by_label["pearson"] if intervals else (None,) * len(metrics.labels)
    names = list(metrics.labels)
    for name, own in baselines.items():
        figure.add_scatter(
            x=own.pearson,
            y=names,
            mode="markers",
            name=name,
            marker={"color": GREY, "symbol": "line-ns-open", "size": 12},
        )
    figure.add_scatter(
        x=metrics.pearson,
        y=names,
        mode="markers",
        name="this model",
        error_x=_bars(metrics.pearson, ends),
        marker={"color": MODEL, "size": 10},
    )
    figure.add_vline(x=0.0, line_color=INK, line_width=1)
    figure.update_yaxes(autorange="reversed")
    return _laid_out(figure, "Pearson's r", height=120 + 42 * len(names))


def reliability(own: Reliability) -> go.Figure:
    """Truth by size of the prediction, a panel an emotion; on the diagonal, numbers mean what they say."""
    n_rows = -(-len(own.by_label) // COLUMNS)
    titles = [label.label for label in own.by_label]
    figure = make_subplots(rows=n_rows, cols=COLUMNS, subplot_titles=titles, shared_xaxes=True, shared_yaxes=True)
    for place, label in enumerate(own.by_label):
        at: dict[str, Any] = {"row": place // COLUMNS + 1, "col": place % COLUMNS + 1, "showlegend": False}
        figure.add_scatter(
            x=[0, 1], y=[0, 1], mode="lines", line={"color": GREY, "dash": "dot"}, hoverinfo="skip", **at
        )
        truths = [one.truth for one in label.bins]
        figure.add_scatter(
            x=[one.prediction for one in label.bins],
            y=[truth.value for truth in truths],
            error_y=_bars([truth.value for truth in truths], truths),
            mode="lines+markers",
            line={"color": MODEL},
            text=[f"{one.n_clips} clips" for one in label.bins],
            name=label.label,
            **at,
        )
    figure.update_xaxes(range=[0, 1])
    figure.update_yaxes(range=[0, 1])
    return _laid_out(figure, None, height=90 + 200 * n_rows)


def coverage(own: Coverage) -> go.Figure:
    """Share of each emotion's labels that its intervals hold, beside what was asked."""
    figure = go.Figure()
    widths = [f"mean width {width:.2f}" for width in own.widths]
    figure.add_bar(
        x=list(own.labels),
        y=list(own.by_label),
        marker_color=MODEL,
        text=widths,
        insidetextanchor="middle",
        name="held",
    )
    figure.add_hline(y=own.asked, line_color=WARN, line_dash="dash", annotation_text=f"asked: {own.asked:.0%}")
    figure.update_yaxes(range=[0, 1.05], tickformat=".0%")
    return _laid_out(figure, None, height=300)


def groups(own: Grouping) -> go.Figure:
    """Mean Pearson and bias of each group with their intervals; small groups are grey."""
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, subplot_titles=["mean Pearson", "bias (prediction less label)"]
    )
    names = [f"{group.name} ({group.n_clips} clips)" for group in own.groups]
    colours = [GREY if group.is_small else MODEL for group in own.groups]
    for column, measure in enumerate(("pearson", "bias"), start=1):
        values = [group.number(measure).value for group in own.groups]
        middles = [value.value if value else None for value in values]
        figure.add_scatter(
            x=middles,
            y=names,
            error_x=_bars(middles, values),
            mode="markers",
            showlegend=False,
            marker={"color": colours, "size": 10},
            row=1,
            col=column,
        )
    figure.add_vline(x=0.0, line_color=INK, line_width=1, row=1, col=2)
    figure.update_yaxes(autorange="reversed")
    return _laid_out(figure, None, height=130 + 36 * len(names))


def degradation(own: Degradation) -> go.Figure:
    """Mean Pearson as clips become harder to read, a panel a nuisance."""
    n_rows = -(-len(own.curves) // 2)
    titles = [curve.nuisance for curve in own.curves]
    figure = make_subplots(rows=n_rows, cols=2, subplot_titles=titles, shared_yaxes=True)
    for place, curve in enumerate(own.curves):
        values = [point.metrics.mean_pearson for point in curve.points]
        ends = [point.intervals.mean["pearson"] for point in curve.points]
        figure.add_scatter(
            x=[point.level for point in curve.points],
            y=values,
            error_y=_bars(values, ends),
            mode="lines+markers",
            line={"color": MODEL},
            showlegend=False,
            row=place // 2 + 1,
            col=place % 2 + 1,
        )
    figure.update_xaxes(type="category")
    figure.update_yaxes(rangemode="tozero")
    return _laid_out(figure, None, height=90 + 230 * n_rows)


def _bars(values: Sequence[float | None], ends: Sequence[Interval | None]) -> dict[str, Any]:
    """Error bars from a value to the ends of its interval; none where it has none."""
    pairs = list(zip(values, ends, strict=True))
    up = [own.high - value if own and value is not None else None for value, own in pairs]
    down = [value - own.low if own and value is not None else None for value, own in pairs]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.5, "color": INK}


def _laid_out(figure: go.Figure, x_title: str | None, height: int) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 10, "r": 10, "t": 56, "b": 40},
        xaxis_title=x_title,
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        legend={"orientation": "h", "y": -0.2},
    )
    figure.update_yaxes(automargin=True)
    figure.update_xaxes(automargin=True)
    return figure
