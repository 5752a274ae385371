"""A model folder and held-out clips -> the same folder with intervals, and recalibrated where asked for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from reactometer.data.cache import PreparedSet
from reactometer.data.splits import SPLITS
from reactometer.errors import DataError, suggestion
from reactometer.evaluation.evaluate import open_for
from reactometer.io import appearing
from reactometer.models.calibrate import COVERAGE
from reactometer.models.calibrate import calibrate as fit
from reactometer.models.folder import LoadedModel, load_model
from reactometer.models.uncertainty import Uncertainty, save_uncertainty


def calibrate(
    model: Path | str,
    data: Path | str,
    *,
    split: str = "val",
    coverage: float = COVERAGE,
    recalibrate: bool = False,
    out: Path | str | None = None,
    cache: Path | str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Uncertainty:
    """Fit a model's intervals to clips that its weights have not seen, and keep them in its folder.

    Args:
        model: a model folder, or an ensemble's.
        data: a data set, or a folder prepared before.
        split: of the clips to fit to, or "all" of a data set that the model has never seen.
        coverage: share of new clips whose label the intervals are to hold.
        recalibrate: fit a monotone curve a label, too, which brings predictions to the labels' scale.
        out: a folder for a copy of the model that holds them; default: the model's own folder.
        cache: where prepared clips are kept when ``data`` is not prepared yet; default: the user's cache folder.
        device: "auto" (a GPU if there is one), or a torch device.
        progress: show bars on standard error.

    Raises:
        DataError: no such split, too few clips with labels, or clips that the model learned from.
        OutputError: the folder cannot be written into, or ``out`` exists.
        ModelError, ConfigError: no model, or no coverage.
    """
    if split not in (*SPLITS, "all"):
        raise DataError(f"no split '{split}'", fix=suggestion(split, (*SPLITS, "all")))
    loaded = load_model(model, device)
    prepared = open_for(loaded, data, cache, progress=progress)
    _refuse_learned(loaded, prepared, split)
    fitted = fit(loaded, prepared, split=split, coverage=coverage, recalibrate=recalibrate, progress=progress)
    fitted = replace(fitted, fitted_on={**fitted.fitted_on, "name": Path(data).resolve().name})
    if out is None:
        save_uncertainty(Path(model), fitted)
    else:
        with appearing(Path(out)) as partial:
            shutil.copytree(model, partial, dirs_exist_ok=True)
            save_uncertainty(partial, fitted)
    return fitted


def _refuse_learned(loaded: LoadedModel, prepared: PreparedSet, split: str) -> None:
    """Residuals of clips that the weights were fitted to are too small: intervals from them would hold too little."""
    own = [
        member
        for member in loaded.each
        if member.description.get("data", {}).get("manifest_sha256") == prepared.manifest_sha256
    ]
    learned = {"train", "all", *(["val"] if any(member.config.data.folds for member in own) else [])}
    if own and split in learned:
        raise DataError(
            f"the model learned from clips of split '{split}' of {prepared.folder.name}",
            expected="clips that it has not seen",
            fix="Name another split, or give clips of your own",
        )
