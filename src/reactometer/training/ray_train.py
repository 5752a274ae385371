"""Train on a Ray cluster: Ray Train starts a worker a device, wherever the cluster has room."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread, current_thread, main_thread
from typing import Any

from reactometer.cluster import connect
from reactometer.config import Config, TrainingConfig, load_config
from reactometer.console import messages
from reactometer.data.sources import open_data
from reactometer.errors import ConfigError, ReactometerError
from reactometer.models.zoo import goes_by
from reactometer.training.engine import claim
from reactometer.training.fit import MODEL, train
from reactometer.training.processes import count_processes

RAY, SAID = "ray", "messages.txt"
"""Folder in the run's, gone at its end, of what Ray Train keeps; in it, what the first worker has to say."""

LOOKED_S = 0.5
"""How often it is looked at."""


def train_on_ray(
    config: Config | Path | str,
    address: str,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """The same as :func:`reactometer.training.fit.train`, by ``training.devices`` × ``training.num_nodes`` workers.

    Clips are prepared here, before the workers start; they read them, and write the run, where it is: in folders that
    all machines see under the same name.

    Args:
        config: a TOML file, or a configuration made in Python.
        address: of a cluster, see :func:`reactometer.cluster.connect`.
        overrides, resume, overwrite, progress: as of ``train``.

    Raises:
        ClusterError: Ray is not installed, there is no such cluster, or it is lost.
        ConfigError: the cluster is too small.
        ReactometerError: all else that ``train`` raises.
    """
    if not isinstance(config, Config):
        config = load_config(Path(config), overrides)
    goes_by(config.model)
    out = claim((config.training.out or Path("runs/run")).absolute(), MODEL, resume=resume, overwrite=overwrite)
    with connect(address):
        workers, on_gpu = _workers(config.training)
        prepared = open_data(config.data, config.prepare, progress=progress)
        data = config.data.model_copy(update={"path": prepared.folder.absolute()})
        training = config.training.model_copy(update={"out": out})
        job = config.model_copy(update={"data": data, "training": training})
        options = {"resume": resume, "overwrite": overwrite, "progress": progress}
        _fit(out, workers, on_gpu, {"config": job.model_dump_json(), **options})
    return out / MODEL


def _workers(settings: TrainingConfig) -> tuple[int, bool]:
    """How many workers train, and whether each has a GPU; all GPUs of the cluster where nothing else is asked for."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()
    on_gpu = settings.accelerator != "cpu" and resources.get("GPU", 0.0) >= 1.0
    devices, nodes = count_processes(settings)
    if settings.devices == "auto" and on_gpu:
        devices, nodes = int(resources["GPU"]), 1
    kind, room = ("GPU", resources["GPU"]) if on_gpu else ("CPU", resources.get("CPU", 0.0))
    if devices * nodes > room:
        raise ConfigError(
            "the Ray cluster is too small for the workers asked for",
            got=f"{room:g} {kind}s",
            expected=f"{devices * nodes}, training.devices times training.num_nodes",
            fix="Ask for fewer, or let more machines join it",
        )
    return devices * nodes, on_gpu


def _fit(out: Path, workers: int, on_gpu: bool, job: dict[str, Any]) -> None:
    """Start the workers and wait for them; what stops one is raised here."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    folder, usual = out / RAY, signal.getsignal(signal.SIGINT)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scaling = ScalingConfig(num_workers=workers, use_gpu=on_gpu)
    run = RunConfig(name=RAY, storage_path=str(out))
    try:
        with _told(folder / SAID):
            TorchTrainer(_work, train_loop_config=job, scaling_config=scaling, run_config=run).fit()
    except TrainingFailedError as error:
        known = [one for one in _causes(error) if isinstance(one, ReactometerError)]
        raise known[0] if known else error from None
    except SystemExit as stop:  # how Ray Train answers Ctrl-C
        messages.print("stopped in training; go on from the last finished epoch with --resume")
        raise KeyboardInterrupt from stop
    finally:
        if current_thread() is main_thread():
            signal.signal(signal.SIGINT, usual)  # Ray Train leaves its own there
        shutil.rmtree(folder, ignore_errors=True)


def _work(job: dict[str, Any]) -> None:
    """What each worker does."""
    config = Config.model_validate_json(job["config"])
    assert config.training.out is not None
    with (config.training.out / RAY / SAID).open("a", encoding="utf-8") as messages.file:
        train(config, resume=job["resume"], overwrite=job["overwrite"], on_ray=True, progress=job["progress"])


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The failures of the workers behind an error, and what each came from."""
    for failure in getattr(error, "worker_failures", {}).values():
        yield failure
        if cause := getattr(failure, "cause", None) or failure.__cause__:
            yield cause


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Say here what the workers say in a file; all else that they print is Ray's, and stays in its logs."""
    ended = Event()

    def follow() -> None:
        file.touch()
        with file.open(encoding="utf-8") as lines:
            while True:
                was_ended = ended.wait(LOOKED_S)
                messages.print(lines.read(), end="", markup=False)
                if was_ended:
                    return

    teller = Thread(target=follow, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
