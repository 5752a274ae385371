"""Read a dataset's folder or table into a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reactometer.data.datasets.crema_d import VOTES, VOTES_TABLE, find_votes, read_crema_d
from reactometer.data.datasets.hume import (
    ABAW5_TABLE,
    EMI_TABLES,
    MUSE_TABLES,
    read_abaw5,
    read_emi,
    read_muse,
)
from reactometer.data.manifest import Manifest, read_table
from reactometer.errors import DataError, suggestion

TABLE_ENDINGS = (".csv", ".tsv")

LAYOUTS = (((ABAW5_TABLE,), read_abaw5), (MUSE_TABLES, read_muse), (EMI_TABLES, read_emi))
"""Tables that identify a layout, and the layout's reader."""


def read_dataset(
    path: Path | str, labels: str | Sequence[str] | None = None, *, votes: str = "both"
) -> Manifest:
    """Read a dataset's table; media files are not opened.

    Args:
        path: a folder in the layout of ABAW5 (``data_info.csv``), MuSe-2022 (``labels.csv``,
            ``partition.csv``), EMI (``train_split.csv``, ``valid_split.csv``) or CREMA-D
            (``tabulatedVotes.csv``), or a CSV with a column ``path`` (a media file, or a folder of face
            crops), optional ``audio`` (a sound file beside it), ``split``, ``person`` and ``stimulus``, and
            one column per label; columns without numbers are attributes. Or a folder in which such a CSV is
            the only table.
        labels: the name of a label set or the label columns; ``None`` finds them.
        votes: raters of CREMA-D's labels: of the "voice", the "face" or "both".

    Raises:
        DataError: the dataset does not exist, or its table cannot be used. An invalid row only sets the
            ``problem`` of its clip.
    """
    path = Path(path)
    if votes not in VOTES:
        raise DataError(f"no votes '{votes}'", fix=suggestion(votes, VOTES))
    if not path.is_dir():
        return read_table(path, labels)
    for names, read in LAYOUTS:
        if all((path / name).is_file() for name in names):
            return read(path, labels)
    if find_votes(path):
        return read_crema_d(path, labels, votes)
    tables = [entry for entry in sorted(path.iterdir()) if entry.suffix.lower() in TABLE_ENDINGS]
    if len(tables) == 1:
        return read_table(tables[0], labels)
    raise DataError(
        f"{path}: no known dataset layout",
        got=", ".join(table.name for table in tables) or "a folder without CSV files",
        expected=f"{ABAW5_TABLE} (ABAW5), {' and '.join(MUSE_TABLES)} (MuSe-2022), "
        f"{' and '.join(EMI_TABLES)} (EMI) or "
        f"{VOTES_TABLE} (CREMA-D) in the folder, or the path of a CSV table with a column 'path'",
        fix="List your videos in a CSV with a column 'path' and one column per label",
    )
