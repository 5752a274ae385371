"""The label sets; no other file spells a label.

Sources: Hume-Reaction (MuSe-2022, arXiv 2207.05691; ABAW5, arXiv 2303.01498), EMI (ABAW6, arXiv 2402.19344),
and the six basic emotions (Ekman 1992). Order and spelling are those of the datasets' files.
"""

from __future__ import annotations

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
