"""The label sets; no other file spells a label.

Sources: Hume-Reaction (MuSe-2022, arXiv 2207.05691; ABAW5, arXiv 2303.01498), EMI (ABAW6, arXiv 2402.19344),
and the six basic emotions (Ekman 1992). Order and spelling are those of the datasets' files.
"""

from __future__ import annotations

from collections.abc import Sequence

HUME_REACTION: tuple[str, ...] = (
    "Adoration",
    "Amusement",
    "Anxiety",
    "Disgust",
    "Empathic-Pain",
    "Fear",
    "Surprise",
)
EMI: tuple[str, ...] = ("Admiration", "Amusement", "Determination", "Empathic Pain", "Excitement", "Joy")
BASIC: tuple[str, ...] = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")

LABEL_SETS: dict[str, tuple[str, ...]] = {"hume-reaction": HUME_REACTION, "emi": EMI, "basic": BASIC}

COLOURS = ("#D55E00", "#E69F00", "#009E73", "#0072B2", "#CC79A7", "#56B4E9", "#4D4D4D")
"""Colours that people with colour-blindness can tell apart (Okabe & Ito 2008)."""

ON_DARK = {"#4D4D4D": "#D9D9D9"}
"""Colours on a dark background that replace those of :data:`COLOURS` with a contrast below 3:1."""

_COLOUR_OF: dict[str, str] = {
    **dict.fromkeys(("Anger", "Adoration", "Admiration"), COLOURS[0]),
    **dict.fromkeys(("Happiness", "Amusement"), COLOURS[1]),
    **dict.fromkeys(("Disgust", "Joy"), COLOURS[2]),
    **dict.fromkeys(("Sadness", "Empathic-Pain", "Empathic Pain"), COLOURS[3]),
    **dict.fromkeys(("Fear", "Excitement"), COLOURS[4]),
    **dict.fromkeys(("Surprise",), COLOURS[5]),
    **dict.fromkeys(("Anxiety", "Determination"), COLOURS[6]),
}


def colours_of(labels: Sequence[str], *, on_dark: bool = False) -> tuple[str, ...]:
    """Return a colour per label as ``#RRGGBB``: that of the emotion if all are known, else by position."""
    if all(label in _COLOUR_OF for label in labels):
        colours = [_COLOUR_OF[label] for label in labels]
    else:
        colours = [COLOURS[index % len(COLOURS)] for index in range(len(labels))]
    return tuple(ON_DARK.get(colour, colour) if on_dark else colour for colour in colours)
