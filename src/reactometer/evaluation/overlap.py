"""Compare the clips to score with the clips that a model was trained on, which its checkpoint lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reactometer.data.cache import PreparedRow
from reactometer.errors import DataError
from reactometer.inference.checkpoint import LoadedModel


@dataclass(frozen=True)
class Overlap:
    """Numbers of scored clips that a model has seen before, by the content of their files."""

    n_clips: int
    n_train: int  # at least one member was trained on them
    n_val: int  # of the others: they chose the epoch of at least one member
    is_recorded: bool  # all members list their training clips
    is_out_of_fold: bool = False

    @property
    def label(self) -> str:
        """One word for titles: "in-sample", "out-of-fold", or "" for other clips."""
        if self.n_train:
            return "in-sample"
        return "out-of-fold" if self.is_out_of_fold else ""

    @property
    def note(self) -> str:
        """A sentence without a full stop; "" if no member has seen the clips."""
        if self.n_train:
            return f"in-sample: the model was trained on {self.n_train} of these {self.n_clips} clips"
        epoch = (
            f"{self.n_val} of these {self.n_clips} clips chose the epoch, so the scores are slightly too high"
        )
        if self.is_out_of_fold:
            models = "out-of-fold: each clip is scored by the models that were not trained on it"
            return f"{models}; {epoch}" if self.n_val else models
        if not self.is_recorded:
            return "the checkpoint does not list its training clips, so these clips may be among them"
        return epoch if self.n_val else ""

    def as_json(self) -> dict[str, Any]:
        """Return the counts and the sentence."""
        return {**asdict(self), "note": self.note}


def describe_clips(**rows_by_split: Sequence[PreparedRow]) -> dict[str, str]:
    """Return the record of a model's training clips for its checkpoint: sorted keys by split."""
    return {
        split: " ".join(sorted({row.key for row in rows if row.key})) for split, rows in rows_by_split.items()
    }


def find_overlap(loaded: LoadedModel, rows: Sequence[PreparedRow]) -> Overlap:
    """Count the clips that a model, or a member of an ensemble, was trained or validated on."""
    train, val = (set().union(*_read_clips(loaded, split)) for split in ("train", "val"))
    n_train = sum(row.key in train for row in rows)
    n_val = sum(row.key in val - train for row in rows)
    is_recorded = all("clips" in member.description.get("data", {}) for member in loaded.members)
    return Overlap(len(rows), n_train, n_val, is_recorded)


def check_held_out(loaded: LoadedModel, rows: Sequence[PreparedRow]) -> Overlap:
    """Return the overlap. Raise DataError if the model was trained on some of the clips."""
    overlap = find_overlap(loaded, rows)
    if overlap.n_train:
        raise DataError(
            "the model was trained on these clips",
            got=f"{overlap.n_train} of {overlap.n_clips} clips",
            expected="held-out clips",
            fix="Choose another split or dataset, --split out-of-fold for a fold ensemble, or --in-sample to "
            "score training clips",
        )
    return overlap


def find_held_out_members(
    loaded: LoadedModel, rows: Sequence[PreparedRow]
) -> tuple[list[tuple[int, ...]], Overlap]:
    """Return the indices of the members that held each clip out; none for clips outside the folds.

    If every member that was not trained on a clip chose its epoch on it, those members are returned.

    Raises:
        DataError: all members were trained on a clip, or no clip is in the folds.
    """
    train, val = _read_clips(loaded, "train"), _read_clips(loaded, "val")
    members, n_clips, n_val = list[tuple[int, ...]](), 0, 0
    for row in rows:
        is_in_folds = any(row.key in clips for clips in (*train, *val))
        unseen = tuple(index for index, clips in enumerate(train) if row.key not in clips)
        test = tuple(index for index in unseen if row.key not in val[index])
        if is_in_folds and not unseen:
            raise DataError(
                f"no out-of-fold score: all members were trained on '{row.clip.clip_id}'",
                expected="an ensemble from 'reactometer train --folds' or 'reactometer crossval', and a "
                "dataset without copies of clips",
            )
        n_clips += is_in_folds and bool(row.clip.labels)
        n_val += is_in_folds and not test
        members.append((test or unseen) if is_in_folds or row.file is None else ())
    if not n_clips:
        raise DataError(
            "no out-of-fold score: the model was trained on none of these clips", fix="Choose another split"
        )
    return members, Overlap(n_clips, 0, n_val, is_recorded=True, is_out_of_fold=True)


def _read_clips(loaded: LoadedModel, split: str) -> list[set[str]]:
    """Return the keys of the clips of a split of the training data, by member."""
    records = [member.description.get("data", {}).get("clips", {}) for member in loaded.members]
    return [set(record.get(split, "").split()) for record in records]
