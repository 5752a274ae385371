"""Shared fixtures: the real test data, with a notice if it is absent, and small datasets and models."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from reactometer.config import Config
from reactometer.data.cache import PreparedSet
from reactometer.types import ByteArray, Detection

pytest_plugins = ("fixtures_of_faults", "fixtures_of_releases", "fixtures_of_runs", "fixtures_of_serving")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, a processor each
os.environ["HF_HUB_OFFLINE"] = "1"  # tests download nothing, and use no cache of the user
_CACHE = tempfile.TemporaryDirectory(prefix="reactometer-tests-")
os.environ["REACTOMETER_CACHE"] = _CACHE.name

if (SHARED / "weights").is_dir():
    os.environ.setdefault("REACTOMETER_WEIGHTS", str(SHARED / "weights"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, so that no processor ends alone; skip, visibly, what needs real data that is
    not here."""
    items.sort(key=_seconds, reverse=True)
    if (SHARED / "data").is_dir():
        return
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(pytest.mark.skip(reason=f"the real test data is not at {SHARED / 'data'}"))


def _seconds(item: pytest.Item) -> float:
    """Return the duration in a test's mark, seconds; 0 without one."""
    return max((float(mark.args[0]) for mark in item.iter_markers("slow") if mark.args), default=0.0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips, voices and faces; only for tests marked ``shared``."""
    return SHARED / "data"


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that is made once a run of the tests, by the process that wants it first, and read by all."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    done = folder.with_suffix(".done")
    with FileLock(folder.with_suffix(".lock")):
        if not done.exists():
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic demo dataset of 40 clips, shared by all tests of a run."""
    from reactometer.synthetic.dataset import simulate

    return _made_once(
        tmp_path_factory, "simulated", lambda out: simulate(out, n_clips=40, duration_s=1.5, workers=1)
    )


@pytest.fixture
def excerpt(simulated: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies of some clips of the synthetic demo dataset."""

    def excerpt(train: int = 0, val: int = 0, test: int = 0) -> Path:
        """Write a dataset of the first clips of each split, which a test may change."""
        header, *all_lines = (simulated / "data_info.csv").read_text(encoding="utf-8").splitlines()
        lines, folder = [header], tmp_path / "data"
        for split, count in (("train", train), ("val", val), ("test", test)):
            (folder / split / "mp4").mkdir(parents=True)
            for line in [line for line in all_lines if line.split(",")[1].lower() == split][:count]:
                name = Path(split, "mp4", line.split(",")[0].strip("[]") + ".mp4")
                shutil.copy(simulated / name, folder / name)
                lines.append(line)
        (folder / "data_info.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder

    return excerpt


@pytest.fixture(scope="session")
def small_config(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A configuration of the smallest network, of face and voice, that a test can train in seconds."""
    from reactometer.cli.demo import demo_config

    config = demo_config(simulated, tmp_path_factory.mktemp("runs"))
    small = {"size_px": 48, "n_frames": 4, "hidden": 16, "layers": 1}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"cache": tmp_path_factory.mktemp("prepared")}),
            "prepare": config.prepare.model_copy(update={"size_px": 48}),
            "model": config.model.model_copy(update=small),
            "training": config.training.model_copy(update={"epochs": 2}),
        }
    )


@pytest.fixture(scope="session")
def prepared(simulated: Path, small_config: Config, tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    """The prepared synthetic dataset; each test process has a copy, because features are stored beside the
    clips."""
    from reactometer.data.cache import open_prepared
    from reactometer.data.prepare import prepare

    def make(out: Path) -> None:
        prepare(simulated, out, settings=small_config.prepare, workers=1, progress=False)

    made = _made_once(tmp_path_factory, "prepared", make)
    return open_prepared(Path(shutil.copytree(made, small_config.data.cache or "", dirs_exist_ok=True)))


@pytest.fixture(scope="session")
def model_folder(
    small_config: Config, prepared: PreparedSet, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model of face and voice, trained for two epochs on the small data set."""
    from reactometer.training.train import train

    def make(out: Path) -> None:
        config = small_config.training.model_copy(update={"out": out})
        train(config=small_config.model_copy(update={"training": config}), progress=False)

    assert prepared.rows
    return _made_once(tmp_path_factory, "run", make) / "model"


@pytest.fixture(scope="session")
def features_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint over three features of the face and two of the voice, its weights as they are drawn."""

    def make(out: Path) -> None:
        import torch

        from reactometer.models.registry import build_model, load_encoders
        from reactometer.training.export import write_checkpoint

        torch.manual_seed(0)
        config = Config.model_validate({"model": {"name": "multimodal", "hidden": 8}})
        encoders = load_encoders(config.model, {"face": 3, "voice": 2})
        network = build_model(config.model, encoders, [0.5, 0.5]).eval()
        write_checkpoint(out, network, ("Joy", "Fear"), config, data={"clips": 3}, metrics={"mae": 0.1})

    return _made_once(tmp_path_factory, "features", make)


@pytest.fixture(scope="session")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a checkpoint anew with a random output layer, so that its answers vary from clip to clip."""

    def lively(source: Path, folder: Path, seed: int = 0, **model: object) -> Path:
        """Copy it into ``folder``; ``model`` are other settings of ``model.*``. Each is exported once per
        run."""

        def make(out: Path) -> None:
            import torch

            from reactometer.data.person_norm import FeatureStats
            from reactometer.models.registry import load_network
            from reactometer.training.export import write_checkpoint

            network, about = load_network(source)
            torch.manual_seed(seed)
            for parameter in network.output.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
            config = Config.model_validate(about["config"])
            config = config.model_copy(update={"model": config.model.model_copy(update=model)})
            stats = {
                name: FeatureStats(scale.mean.numpy(), scale.std.numpy())
                for name, scale in (network.scales.items() if config.model.person_norm else ())
            }
            write_checkpoint(out, network, about["labels"], config, data={}, metrics={}, training_stats=stats)

        key = (source / "model.json").read_bytes() + repr((seed, model)).encode()
        made = _made_once(tmp_path_factory, f"lively-{sha256(key).hexdigest()[:16]}", make)
        return Path(shutil.copytree(made, folder))

    return lively


@pytest.fixture(scope="session")
def frozen_folder(
    small_config: Config,
    prepared: PreparedSet,
    lively: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A model of face and voice behind a frozen encoder, whose answers vary."""
    from reactometer.training.train import train

    def make(out: Path) -> None:
        config = small_config.model_copy(
            update={
                "data": small_config.data.model_copy(update={"path": prepared.folder}),
                "model": small_config.model.model_copy(update={"frozen": True}),
                "training": small_config.training.model_copy(update={"out": out / "run", "epochs": 1}),
            }
        )
        lively(train(config=config, progress=False), out / "lively")

    return _made_once(tmp_path_factory, "frozen", make) / "lively"


@pytest.fixture
def toml(small_config: Config, tmp_path: Path) -> Path:
    """The file of a configuration of the smallest face network, to be trained for one epoch."""
    model, training = small_config.model, small_config.training
    text = f"""
    [prepare]
    detector = "haar"
    rate_hz = 2.0
    size_px = 48
    [model]
    name = "resnet50"
    encoder = "{model.encoder}"
    n_frames = 4
    size_px = 48
    [training]
    epochs = 1
    batch_size = {training.batch_size}
    """
    (tmp_path / "small.toml").write_text(text, encoding="utf-8")
    return tmp_path / "small.toml"


@pytest.fixture
def no_yunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without YuNet's file and without a network."""
    from reactometer.media import faces

    monkeypatch.delenv("REACTOMETER_WEIGHTS", raising=False)
    monkeypatch.setenv("REACTOMETER_CACHE", str(tmp_path))
    faces._download_yunet.cache_clear()
    yield
    faces._download_yunet.cache_clear()


@pytest.fixture
def no_starter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which the starter model is not installed."""
    from reactometer.media import speech

    monkeypatch.setitem(sys.modules, "reactometer_starter", None)
    speech.detector_sha256.cache_clear()
    yield
    speech.detector_sha256.cache_clear()


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Waits until something is so, and fails where it does not come to be."""

    def wait_for(reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not reached():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    return wait_for


@pytest.fixture
def is_gone() -> Callable[[int], bool]:
    """Return whether a process has ended, by Linux's /proc; a zombie has ended, too."""

    def is_gone(process: int) -> bool:
        about = Path(f"/proc/{process}/stat")
        return not about.exists() or ") Z " in about.read_text()

    return is_gone


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that ``predict(isolated=False)`` read, in order; batches are small."""
    from reactometer.inference import aggregate
    from reactometer.media import segments
    from reactometer.workers import decoder

    names: list[str] = []
    monkeypatch.setattr(aggregate, "MAX_BATCH_SEGMENTS", 3)

    def read(path: Path, *arguments: Any) -> Iterator[Any]:
        names.append(path.name)
        return segments.stream_windows(path, *arguments)

    monkeypatch.setattr(decoder, "stream_windows", read)
    return names


@pytest.fixture(scope="module")
def found_once() -> Iterator[None]:
    """Haar's cascade searches a picture once in a module: many files show it, and its faces stay the same."""
    from reactometer.media import faces

    detector, detections_of = faces._haar(), dict[tuple[tuple[int, ...], bytes], list[Detection]]()

    def detect(rgb: ByteArray) -> list[Detection]:
        key = rgb.shape, sha256(rgb.tobytes()).digest()
        if key not in detections_of:
            detections_of[key] = detector(rgb)
        return list(detections_of[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faces, "_haar", lambda: detect)
        yield
