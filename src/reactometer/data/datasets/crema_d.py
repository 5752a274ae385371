"""CREMA-D's crowd votes -> intensities of five emotions a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from reactometer.data.manifest import Manifest, choose_labels, choose_media, mark_duplicates, read_rows
from reactometer.errors import DataError
from reactometer.labels import BASIC
from reactometer.types import Clip

VOTES_TABLE, PEOPLE_TABLE = "tabulatedVotes.csv", "VideoDemographics.csv"

VOTES = ("voice", "face", "both")
"""What raters were given: rows 1xxxxx, 2xxxxx and 3xxxxx of the table, the ``queryType`` of the data set's README."""

LETTERS = ("A", "D", "F", "H", "N", "S")
"""Columns with the number of raters who chose an emotion; N is neutral, which is no label."""

COLUMNS: Mapping[str, tuple[str, str]] = {
    label: (label[0], f"mean{word}Resp")
    for label, word in zip(BASIC, ("Anger", "Disgust", "Fear", "Happy", "Sad"), strict=False)  # surprise was no choice
}
"""Label -> its columns: raters who chose it, and the mean level (0 to 100) they gave it, -1 where nobody did."""

VIDEOS = ("VideoFlash/{}.flv", "VideoMP4/{}.mp4", "mp4/{}.mp4", "video/{}.mp4")
SOUNDS = ("AudioWAV/{}.wav",)
MEDIA = {"voice": SOUNDS, "face": VIDEOS, "both": VIDEOS + SOUNDS}


def find_votes(root: Path) -> Path | None:
    """The table of votes of a CREMA-D folder: in it or in ``processedResults``, gzipped or not."""
    places = [root / folder / f"{VOTES_TABLE}{ending}" for folder in ("", "processedResults") for ending in ("", ".gz")]
    return next((path for path in places if path.is_file()), None)


def read_crema_d(root: Path, asked: str | Sequence[str] | None, votes: str) -> Manifest:
    """Read the votes of the raters who were given the "voice", the "face" or "both" (Cao et al. 2014).

    The person is the actor, from the file's name; the sentence, what they say and not what they react to, is an
    attribute. There is no split.

    Raises:
        DataError: a table cannot be used, or has no such votes.
    """
    table = find_votes(root) or root / VOTES_TABLE
    levels = [level for _, level in COLUMNS.values()]
    rows = read_rows(table, ("fileName", "numResponses", *LETTERS, *levels))
    labels = choose_labels(list(COLUMNS), (), asked, table) if asked else tuple(COLUMNS)
    given = [_given(row) for row in rows]
    if votes not in given:
        raise DataError(
            f"{table}: no votes '{votes}'",
            got=f"first id '{_id(rows[0])}'",
            expected=f"ids from {VOTES.index(votes) + 1}00001 on in the first column",
        )
    people = _read_people(root / PEOPLE_TABLE)
    clips = {
        place: _clip(root, row, labels, votes, people)
        for place, (row, kind) in enumerate(zip(rows, given, strict=True), start=2)  # row 1 of the file is its header
        if kind in (votes, None)
    }
    return Manifest(root, labels, mark_duplicates(list(clips.values()), clips))


def _id(row: Mapping[str, str]) -> str:
    """The cell of the first column, which has no name."""
    return next(iter(row.values())).strip()


def _given(row: Mapping[str, str]) -> str | None:
    """What the raters of this row were given; ``None`` where its id does not say."""
    return dict(zip("123", VOTES, strict=True)).get(_id(row)[:-5])


def _read_people(table: Path) -> dict[str, dict[str, str]]:
    """Age, sex, race and ethnicity by actor; nothing where the table is not there."""
    rows = read_rows(table, ("ActorID",)) if table.is_file() else []
    return {row.pop("ActorID").strip(): row for row in rows}


def _clip(
    root: Path, row: Mapping[str, str], labels: Sequence[str], votes: str, people: Mapping[str, Mapping[str, str]]
) -> Clip:
    """One row of the votes' table; the file's name is ``<actor>_<sentence>_<emotion>_<level>``."""
    name = row["fileName"].strip()
    actor, sentence, *_ = *name.split("_"), ""
    values, problem = _intensities(row, labels)
    if _given(row) is None:
        problem = f"unknown id (got '{_id(row)}'; expected 1xxxxx for voice, 2xxxxx for face, 3xxxxx for both)"
    if not sentence:
        problem = f"fileName has no actor and sentence (got '{name}'; expected such as 1001_DFA_ANG_XX)"
    return Clip(
        clip_id=name,
        path=choose_media([root / place.format(name) for place in MEDIA[votes]]),
        person=actor or None,
        labels=values,
        attributes={**people.get(actor, {}), "Sentence": sentence},
        problem=problem,
    )


def _intensities(row: Mapping[str, str], labels: Sequence[str]) -> tuple[tuple[float, ...] | None, str | None]:
    """Share of the raters who chose an emotion times their mean level, (L,) in [0, 1], and what is wrong, if anything.

    That is the mean level over all raters, where those who chose another emotion count as 0.
    """
    try:
        raters = float(row["numResponses"])
        chosen = {letter: float(row[letter]) for letter in LETTERS}
        levels = {letter: float(row[column]) for letter, column in COLUMNS.values()}
    except ValueError as error:
        return None, f"votes are no numbers ({error})"
    if not sum(chosen.values()) == raters > 0 or min(chosen.values()) < 0:
        return None, f"votes do not add up (got {sum(chosen.values()):g}; expected numResponses, {raters:g})"
    for letter, level in levels.items():
        if chosen[letter] and not 0 <= level <= 100:
            return None, f"mean level of {letter} is outside [0, 100] (got {level:g})"
    letters = [COLUMNS[label][0] for label in labels]
    return tuple(chosen[letter] / raters * max(levels[letter], 0.0) / 100 for letter in letters), None
