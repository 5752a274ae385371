"""What an extra's packages do for us, in small: programs that run where that extra alone is installed."""

from __future__ import annotations

ITS_MODULES = """
import importlib, sys
from importlib.metadata import distributions, packages_distributions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from reactometer.cli.doctor import describe_packages

(package,) = (item for item in distributions() if item.metadata["Name"] == "reactometer")
for requirement in map(Requirement, package.requires):
    if requirement.marker and requirement.marker.evaluate({"extra": sys.argv[1]}):
        owners = packages_distributions().items()
        name = canonicalize_name(requirement.name)
        modules = [top for top, names in owners if name in map(canonicalize_name, names)]
        for name in (name for name in modules if not name.startswith("_")):
            print(importlib.import_module(name).__name__)
describe_packages(sys.argv[1])
"""
"""The modules of an extra's packages are imported, and the package itself takes it for installed."""

EVALUATE = """
from reactometer import evaluate
from reactometer.data.manifest import write_listing
from reactometer.inference.plot import draw_timeline
from reactometer.inference.predictor import predict_files
from reactometer.labels import BASIC
from reactometer.paths import STARTER
from reactometer.synthetic.dataset import simulate
from reactometer.types import Clip
from pathlib import Path

files = sorted(simulate(Path("data"), n_clips=6, duration_s=1.5, workers=1).rglob("*.mp4"))
labels = [tuple((index + 2 * label) % 7 / 7 for label in range(6)) for index in range(6)]
clips = [Clip(f.name, f, "val", labels=values) for f, values in zip(files, labels)]
write_listing(Path("data/clips.csv"), clips, BASIC)
evaluation = evaluate(STARTER, "data/clips.csv", split="val", n_resamples=100, out="scores", progress=False)
assert evaluation.metrics.n_clips == 6 and Path("scores/reliability.png").is_file()
draw_timeline(*predict_files(files[:1], progress=False), Path("timeline.png"))
"""
STARTER = """
from reactometer.inference.predictor import predict_files
(prediction,) = predict_files(["clips/clip.mp4"], progress=False)
assert prediction.status == "ok"
"""
PARQUET = """
import pyarrow.parquet as parquet
from reactometer.batch.run import predict_folder
assert not predict_folder("clips", "results", ending="parquet", progress=False).failures
(row,) = parquet.read_table("results/files.parquet").to_pylist()
assert row["status"] == "ok" and 0.0 <= row["Happiness"] <= 1.0
"""
TRAIN = """
from pathlib import Path
from reactometer import train
from reactometer.inference.predictor import predict_files
from reactometer.cli.demo import demo_config
from reactometer.synthetic.dataset import simulate
config = demo_config(simulate(Path("data"), n_clips=40, duration_s=1.5, workers=1), Path("demo"))
small = config.model.model_copy(update={"size_px": 48, "n_frames": 4, "hidden": 16})
once = config.training.model_copy(update={"epochs": 1})
model = train(config=config.model_copy(update={"model": small, "training": once}), progress=False)
(prediction,) = predict_files(["clips/clip.mp4"], model, progress=False)
assert prediction.status == "ok"
"""
RAY = """
import ray
from reactometer.batch.ray_backend import connect
with connect("local", n_cpus=1):
    assert ray.get(ray.remote(num_cpus=1)(lambda: 6 * 7).remote()) == 42
"""
SCRIPTS = {
    "evaluate": EVALUATE,
    "parquet": PARQUET,
    "train": TRAIN,
    "starter": STARTER,
    "ray": RAY,
}
"""What an extra's packages do for us, in small."""
