"""Without the packages of the extras, predictions work; another command names the extra before it does
anything."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from reactometer.errors import ReactometerError, require

OF_EXTRAS = (
    "jinja2",
    "lightning",
    "matplotlib",
    "onnx",
    "pandas",
    "plotly",
    "pyarrow",
    "scipy",
    "torch",
    "transformers",
)
"""Packages that every process of the command finds not installed."""

RUN = "import sys; from reactometer.cli.app import main; sys.exit(main())"


@pytest.fixture
def reactometer(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command, in ``tmp_path``, in processes that cannot import the packages of the extras."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({OF_EXTRAS}))\n"
    )
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", RUN, *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300, check=False
        )

    return run


@pytest.mark.slow(10)
def test_predictions_need_no_extra(
    reactometer: Callable[..., subprocess.CompletedProcess[str]],
    talking: Callable[[int], Path],
    tmp_path: Path,
) -> None:
    (tmp_path / "clips.csv").write_text(f"path,person\n{talking(1)},anna\n", encoding="utf-8")
    done = reactometer("predict", "clips.csv", "--out=clips.json", "--faces=all")
    assert done.returncode == 0, done.stderr
    kinds = "timeline,frames,events,elan,vtt"
    done = reactometer("predict", "clips.csv", "--out-dir=run", f"--save={kinds}", "--faces=all")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "clips.json").read_text(encoding="utf-8"))
    assert (row["path"], row["face"], row["status"]) == (str(talking(1)), 1, "ok")
    for name in ("timeline", "frames", "events"):
        with (tmp_path / "run" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            assert {line["path"] for line in csv.DictReader(file)} <= {row["path"]}
    assert (
        ElementTree.parse(next((tmp_path / "run" / "elan").iterdir())).getroot().tag == "ANNOTATION_DOCUMENT"
    )
    (subtitles,) = (tmp_path / "run" / "vtt").iterdir()
    assert subtitles.read_text(encoding="utf-8").startswith("WEBVTT")
    done = reactometer("predict", talking(1), "--people=clips.csv", "--smooth=1", "--out=one.csv")
    assert done.returncode == 0, done.stderr
    done = reactometer("live", talking(1), "--out=live.csv", "--for=2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "live.csv").read_text(encoding="utf-8").count("\n") > 1


NEEDING: dict[str, tuple[str, ...]] = {
    "predict clip.mp4 --out-dir results --save plot": ("evaluate", "matplotlib"),
    "predict clip.mp4 --out-dir results --save overlay": ("evaluate", "matplotlib"),
    "predict clip.mp4 -o a.parquet": ("parquet", "pyarrow"),
    "predict clip.mp4 --out-dir results --format parquet": ("parquet", "pyarrow"),
    "predict s3://bucket/clip.mp4": ("parquet", "pyarrow"),
    "explain clip.mp4 -o folder": ("evaluate", "matplotlib"),
    "evaluate data -m model": ("evaluate", "pandas, scipy, matplotlib, jinja2"),
    "report data -m model": ("evaluate", "pandas, scipy, matplotlib, jinja2"),
    "data split data -o a.csv": ("evaluate", "scipy"),
    "data ratings a.csv -o b.csv": ("evaluate", "pandas"),
    "train demo": ("train", "torch, lightning, transformers, onnx, pandas, scipy, matplotlib, jinja2"),
    "demo": ("train", "torch, lightning, matplotlib"),
    "model list": ("train", "torch, transformers"),
    "serve": ("serve", "plotly"),
}


@pytest.mark.parametrize("command", NEEDING)
def test_a_command_names_its_missing_extra_at_once(
    reactometer: Callable[..., subprocess.CompletedProcess[str]], command: str, tmp_path: Path
) -> None:
    (tmp_path / "clip.mp4").touch()
    extra, packages = NEEDING[command]
    done = reactometer(*command.split())
    message = " ".join(done.stderr.split())
    verb = "are" if "," in packages else "is"
    assert message == f"error: {packages} {verb} not installed. hint: pip install 'reactometer[{extra}]'."
    assert done.returncode == 2


def test_packages_are_located_without_importing_them() -> None:
    require("json", "xmlrpc.server", extra="evaluate")
    with pytest.raises(
        ReactometerError, match=r"^no_such_package is not installed\. hint: .*reactometer\[ray\]"
    ):
        require("json", "no_such_package", extra="ray")
