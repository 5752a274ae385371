"""Several processes train one model: the same as one process, whoever starts them, and whatever kills
them."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from item_of import item_of
from reactometer.config import TrainingConfig, load_config
from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.data.inputs import ClipPart, InputSpec, Item
from reactometer.models.batches import PartDataset
from reactometer.terminal import is_first_process
from reactometer.training.module import ReactionData
from reactometer.training.train import train
from reactometer.training.trainer import DDP_STRATEGY, _AtomicCheckpointIO, device_arguments

STEADY = """
[prepare]
detector = "haar"
rate_hz = 2.0
size_px = 48
[model]
name = "vit-transformer"
encoder = "random:vit-tiny"
n_frames = 4
size_px = 48
hidden = 16
dropout = 0.0
[training]
epochs = 2
batch_size = 6
accumulate = 2
ema_decay = 0.9
augment = false
loss = "mse+pearson"
accelerator = "cpu"
"""
"""Nothing is drawn at random a batch, and no batch norm; the loss is a correlation over the whole batch."""


@pytest.fixture(scope="module")
def steady(prepared: PreparedSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("steady") / "steady.toml"
    file.write_text(f"{STEADY}[data]\npath = '{prepared.folder}'\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def alone(steady: Path) -> Path:
    """The run of one process."""
    train(config=load_config(steady, [f"training.out={steady.parent / 'alone'}"]), progress=False)
    return steady.parent / "alone"


def _differences(first: Path, second: Path) -> np.ndarray:
    """Return the absolute difference of each weight of two runs."""
    one, other = (load_file(folder / "model" / "weights.safetensors") for folder in (first, second))
    return np.concatenate([(one[name] - other[name]).abs().flatten().numpy() for name in one])


def test_each_process_reads_its_own_clips_and_all_see_the_batches_of_one(prepared: PreparedSet) -> None:
    rows = tuple(row for row in prepared.rows if row.clip.labels)[:7]
    sampling, reads = InputSpec(1, 16, media=()), dict[int, list[str]]()

    def batches(rank: int, n_processes: int, size: int) -> list[list[int]]:
        clip_ids = reads.setdefault(10 * n_processes + rank, [])

        def read(row: PreparedRow, part: ClipPart, rng: np.random.Generator | None = None) -> Item:
            clip_ids.append(row.clip.clip_id)
            none = np.zeros((0, 3, sampling.size_px, sampling.size_px), np.uint8)
            empty = np.zeros(0, np.float32)
            return item_of(none, np.zeros(0, bool), empty, np.zeros((0, 1), np.float32), empty)

        split, settings = PartDataset(rows, read), TrainingConfig(batch_size=size, accelerator="cpu")
        data = ReactionData(split, split, prepared.labels, settings)
        data.trainer = SimpleNamespace(current_epoch=3, world_size=n_processes, global_rank=rank)  # type: ignore[assignment]
        return [batch.clip_index[batch.target_mask].tolist() for batch in data.train_dataloader()]

    alone = batches(0, 1, 4)
    shared = [batches(rank, 2, 2) for rank in range(2)]
    assert [len(clip_ids) for clip_ids in shared] == [2, 2]
    together = [sorted(one + other) for one, other in zip(*shared, strict=True)]
    assert together == [sorted(batch) for batch in alone]
    first, second = reads[20], reads[21]
    assert len(first) == len(second) == 4
    assert set(first) | set(second) == {row.clip.clip_id for row in rows}
    assert len(set(first) & set(second)) <= 1  # the eighth place shows one once more, and has no say


def test_only_the_first_of_all_processes_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_first_process()
    for rank, local, node, first in (("0", "0", "0", True), ("2", "0", "1", False), ("1", "1", "0", False)):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", local)
        monkeypatch.setenv("NODE_RANK", node)
        assert is_first_process() is first
    monkeypatch.delenv("RANK")  # by Lightning's own launcher, the first process of the second machine
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("NODE_RANK", "1")
    assert not is_first_process()


def test_torchrun_sets_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = TrainingConfig(accelerator="cpu")
    assert device_arguments(on_cpu)["strategy"] == "auto"
    assert device_arguments(TrainingConfig(accelerator="cpu", devices=2))["strategy"] == DDP_STRATEGY
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "6")
    arguments = device_arguments(on_cpu)
    assert (arguments["devices"], arguments["num_nodes"], arguments["strategy"]) == (2, 3, DDP_STRATEGY)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "last.ckpt"
    _AtomicCheckpointIO().save_checkpoint({"epoch": 1}, file)

    def killed(_: object, stream: BinaryIO) -> None:
        stream.write(b"half of it")
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(torch, "save", killed)
    child = os.fork()
    if child == 0:
        try:
            _AtomicCheckpointIO().save_checkpoint({"epoch": 2}, file)
        finally:
            os._exit(1)  # it must not go on with the tests
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert torch.load(file) == {"epoch": 1}
    assert len(list(tmp_path.iterdir())) == 2  # and what the next run deletes


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["Lightning", "torchrun"])
def test_two_processes_reach_the_weights_of_one(
    starter: str, steady: Path, alone: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    command = ["-m", "reactometer", "train", str(steady), "training.batch_size=3", f"training.out={shared}"]
    if starter == "torchrun":
        command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", *command]
    else:
        command += ["training.devices=2"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    assert done.stdout.count("model: ") == 1
    assert done.stderr.count("epoch   2 of 2") == 1
    assert (
        np.quantile(_differences(alone, shared), 0.9999) <= 1e-5
    )  # AdamW takes the sign of a gradient of about 0
    first, second = (list(csv.DictReader((run / "logs" / "metrics.csv").open())) for run in (alone, shared))
    for one, other in zip(first, second, strict=True):
        assert one["step"] == other["step"]
        for name in ("batch_loss", "train_loss", "val_mean_ccc", "val_mean_pearson"):
            assert float(one[name] or 0.0) == pytest.approx(float(other[name] or 0.0), abs=1e-4)


@pytest.mark.slow
def test_ended_twice_and_resumed_the_log_and_weights_are_those_of_one_run(
    steady: Path, tmp_path: Path
) -> None:
    """SIGKILL, then SIGTERM, amid an epoch; dropout, augmentation, averaged weights: all the same, to the
    last bit."""
    options = ["training.epochs=4", "training.batch_size=2", "training.accumulate=1", "training.augment=true"]
    options += ["model.dropout=0.2"]
    whole, log = tmp_path / "whole", tmp_path / "killed" / "logs" / "metrics.csv"
    train(config=load_config(steady, [*options, f"training.out={whole}"]), progress=False)
    command = [sys.executable, "-m", "reactometer", "train", str(steady), *options]
    command += [f"training.out={tmp_path / 'killed'}"]
    expected = (whole / "logs" / "metrics.csv").read_text()
    for share, how in ((0.4, signal.SIGKILL), (0.8, signal.SIGTERM)):  # share: of the log's lines
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while not log.is_file() or log.read_text().count("\n") < share * expected.count("\n"):
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(how)
        process.wait()
    subprocess.run(command, capture_output=True, check=True)
    assert log.read_text() == expected
    assert not _differences(whole, tmp_path / "killed").any()
