"""Pretrain: labelled faces -> a backbone that tells expressions apart, for ``train`` to start from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from safetensors.torch import save_file

from reactometer.config import PretrainConfig, load_pretrain_config
from reactometer.console import is_first_process
from reactometer.data.labelled_faces import LabelledFaces, read_faces
from reactometer.errors import ConfigError
from reactometer.io import appearing, write_whole
from reactometer.models.backbones import load_net
from reactometer.models.encoders import FrameEncoder
from reactometer.training.engine import claim, clear, load_best, run
from reactometer.training.expression_report import Recognition, measure_recognition, write_report
from reactometer.training.expressions import ExpressionData, ExpressionNetwork, ExpressionTask, recognise

BACKBONE, CLASSIFIER_FILE = "backbone", "classifier.safetensors"
GREY_MEAN, GREY_STD = 0.5, 0.25
"""Normalisation of a network that starts from random weights, as shares of the range; our choice."""


def pretrain(
    config: PretrainConfig | Path | str,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
    test: bool = False,
    progress: bool = True,
) -> Path:
    """Teach a frame encoder to tell expressions apart, and write it as a folder that ``train`` takes by path.

    Args:
        config: a TOML file, or a configuration made in Python.
        overrides: ``section.key=value`` on top of a TOML file.
        resume: go on from the last finished epoch of a run that was stopped.
        overwrite: delete an earlier run in the same folder.
        test: score the test split too; of a finished run, without training again. Once, when all is chosen on val.
        progress: show bars and a line an epoch on standard error.

    Returns:
        The folder, ``<training.out>/backbone``: the network as transformers keeps it, how its input is prepared, the
        classifier, ``expressions.json`` and a card with its scores.

    Raises:
        ConfigError, DataError, WeightsError: what is given cannot be trained on.
        OutputError: the run's folder holds a run already.
    """
    if not isinstance(config, PretrainConfig):
        config = load_pretrain_config(Path(config), overrides)
    progress = progress and is_first_process()
    out = config.training.out or Path("runs/backbone")
    finished = test and not overwrite and (out / BACKBONE).exists()
    if not finished:
        claim(out, BACKBONE, resume=resume, overwrite=overwrite)
    faces = read_faces(config.faces, progress=progress)
    if test and "test" not in faces.splits:
        raise ConfigError(f"{config.faces.path}: no test split to score", fix="Leave --test out")
    seed_everything(config.training.seed, workers=True, verbose=False)
    task = ExpressionTask(_network(config, faces), config.training, len(faces.labels))
    data = ExpressionData(faces, config.backbone.size_px, config.training)
    if not finished:
        if overwrite and is_first_process():
            clear(out, BACKBONE)
        write_whole(out / "config.json", config.model_dump_json(indent=2) + "\n")
        run(task, data, config.training, out, resume=resume, progress=progress)
    if is_first_process():
        best = load_best(task, out)
        scores = {split: _score(task.model, data, faces, split) for split in ("val", *(["test"] if test else []))}
        with nullcontext(out / BACKBONE) if finished else appearing(out / BACKBONE) as folder:
            if not finished:
                _save(folder, task.model, config)
            write_report(folder, config, faces, scores, epoch=best["epoch"])
    return out / BACKBONE


def _network(config: PretrainConfig, faces: LabelledFaces) -> ExpressionNetwork:
    net = load_net(config.backbone.encoder, "pictures")
    settings: dict[str, Any] = dict(net.settings) or {"image_mean": [GREY_MEAN] * 3, "image_std": [GREY_STD] * 3}
    settings["do_grayscale"] = faces.grey
    encoder = FrameEncoder(replace(net, settings=settings), config.backbone.size_px)
    return ExpressionNetwork(encoder, len(faces.labels), config.backbone.dropout)


def _score(model: ExpressionNetwork, data: ExpressionData, faces: LabelledFaces, split: str) -> Recognition:
    return measure_recognition(faces.splits[split].classes, recognise(model, data.loader(split)), faces.labels)


def _save(folder: Path, model: ExpressionNetwork, config: PretrainConfig) -> None:
    """The network as transformers keeps it, and beside it how its input is prepared and the classifier."""
    from transformers.utils.logging import disable_progress_bar

    net: Any = model.encoder.net
    disable_progress_bar()  # of the writing of one file
    net.save_pretrained(folder)
    size = {"height": config.backbone.size_px, "width": config.backbone.size_px}
    prepared = {**model.encoder.settings, "size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared, indent=2) + "\n", encoding="utf-8")
    save_file({name: torch.clone(w) for name, w in model.classifier.state_dict().items()}, folder / CLASSIFIER_FILE)
    for file in folder.iterdir():
        file.chmod(0o644)
