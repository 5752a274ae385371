"""Convert CREMA-D's crowd votes to intensities of five emotions per clip."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from reactometer.data.manifest import Manifest, choose_labels, choose_media, mark_duplicates, read_rows
from reactometer.errors import DataError
from reactometer.types import Clip

VOTES_TABLE = "tabulatedVotes.csv"
PEOPLE_TABLE = "VideoDemographics.csv"

VOTES = ("voice", "face", "both")
"""Rated modality: rows 1xxxxx, 2xxxxx and 3xxxxx of the table, the ``queryType`` of the dataset's README."""

COLUMNS = {
    "Anger": ("A", "meanAngerResp"),
    "Disgust": ("D", "meanDisgustResp"),
    "Fear": ("F", "meanFearResp"),
    "Happiness": ("H", "meanHappyResp"),
    "Sadness": ("S", "meanSadResp"),
}
"""Columns by label: number of raters who chose it, and their mean level (0 to 100; -1 without raters)."""

VIDEOS = ("VideoFlash/{}.flv", "VideoMP4/{}.mp4")
SOUNDS = ("AudioWAV/{}.wav",)
MEDIA = {"voice": SOUNDS, "face": VIDEOS, "both": VIDEOS + SOUNDS}


def find_votes(root: Path) -> Path | None:
    """Return the table of votes of a CREMA-D folder: in it, or in ``processedResults``."""
    candidates = [root / VOTES_TABLE, root / "processedResults" / VOTES_TABLE]
    return next((path for path in candidates if path.is_file()), None)


def read_crema_d(root: Path, label_set: str | Sequence[str] | None, votes: str) -> Manifest:
    """Read the votes of raters of the "voice", the "face" or "both" (Cao et al. 2014).

    The person is the actor, from the file's name ``<actor>_<sentence>_<emotion>_<level>``; the sentence,
    which is spoken and no stimulus, is an attribute. There is no split.

    Raises:
        DataError: a table cannot be used, or has no such votes.
    """
    table = find_votes(root) or root / VOTES_TABLE
    rows = read_rows(table, ("fileName", "numResponses", *chain.from_iterable(COLUMNS.values())))
    labels = choose_labels(list(COLUMNS), (), label_set, table)
    number = VOTES.index(votes) + 1
    chosen = [row for row in rows if re.fullmatch(rf"{number}\d{{5}}", _id(row))]
    if not chosen:
        got = f"first id '{_id(rows[0])}'"
        expected = f"ids from {number}00001 on in the first column"
        raise DataError(f"{table}: no votes '{votes}'", got=got, expected=expected)
    people = {}
    if (root / PEOPLE_TABLE).is_file():
        people = {row.pop("ActorID"): row for row in read_rows(root / PEOPLE_TABLE, ("ActorID",))}
    clips = []
    for row in chosen:
        name = row["fileName"]
        actor, _, rest = name.partition("_")
        values, problem = _intensities(row, labels)
        clip = Clip(
            clip_id=name,
            path=choose_media([root / pattern.format(name) for pattern in MEDIA[votes]]),
            person=actor or None,
            labels=values,
            attributes={**people.get(actor, {}), "Sentence": rest.partition("_")[0]},
            problem=problem,
        )
        clips.append(clip)
    return Manifest(labels, mark_duplicates(clips))


def _id(row: Mapping[str, str]) -> str:
    """Return the cell of the first column, which has no name."""
    return next(iter(row.values()))


def _intensities(
    row: Mapping[str, str], labels: Sequence[str]
) -> tuple[tuple[float, ...] | None, str | None]:
    """Return the share of the raters who chose an emotion times their mean level, (L,) in [0, 1]; or the
    problem.

    The result is the mean level over all raters; raters who chose another emotion count as 0.
    """
    try:
        raters = float(row["numResponses"])
        votes = [tuple(float(row[column]) for column in COLUMNS[label]) for label in labels]
        values = tuple(count / raters * max(level, 0.0) / 100 for count, level in votes)
    except (ValueError, ZeroDivisionError) as error:
        return None, f"votes are no numbers ({error})"
    if not all(0.0 <= value <= 1.0 for value in values):
        return None, f"votes are not those of {raters:g} raters with levels of 0 to 100"
    return values, None
