"""Untrusted checkpoints run no code, write nothing and connect to nothing; odd contents are refused."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reactometer.errors import ModelError
from reactometer.inference.checkpoint import load_model
from reactometer.inference.conformal import load_uncertainty
from reactometer.io import format_json, parse_json_object
from reactometer.paths import STARTER, find_checkpoint


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """Copy the starter and edit its description with a function."""

    def changed(change: Callable[[dict[str, Any]], object]) -> Path:
        folder = Path(shutil.copytree(find_checkpoint(STARTER), tmp_path / "model"))
        about = json.loads((folder / "model.json").read_text())
        change(about)
        (folder / "model.json").write_text(json.dumps(about))
        return folder

    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.update(evil=1),
        lambda about: about["encoders"].update(evil={}),
        lambda about: about["inputs"].update(evil={}),
        lambda about: about["inputs"]["face"].update(evil=1),
        lambda about: about["config"]["prepare"].update(evil=1),
    ],
)
def test_an_unknown_field_is_refused(
    change: Callable[[dict[str, Any]], object], changed: Callable[..., Path]
) -> None:
    with pytest.raises(ModelError, match=r"damaged.*evil"):
        load_model(changed(change), "cpu")


class _Harmful:
    """Write a file when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm-was-done"),))


WATCH = """
import json, sys
from pathlib import Path
from reactometer.inference.checkpoint import load_model
from reactometer.models.registry import load_network
folder, usual, out = map(Path, sys.argv[1:])

def load(folder):
    load_model(folder, "cpu")
    load_network(folder)

load(usual)  # what is imported late is here
events = []

def hear(event, values):
    code = getattr(values[0], "co_filename", "") if event == "exec" and values else ""
    writes = event == "open" and isinstance(values[1], str) and set(values[1]) & set("wax+")
    runs_code = "compile import exec pickle.find_class ctypes.dlopen os.system subprocess.Popen".split()
    changes_files = ("socket.", "urllib", "os.remove", "os.rename", "os.mkdir", "shutil.", "os.exec")
    if event in runs_code:
        events.append([event, code or repr(values)[:200]])
    elif writes or event.startswith(changes_files):
        events.append([event, repr(values)[:200]])

sys.addaudithook(hear)
load(folder)
recorded = list(events)
print(json.dumps(recorded), file=open(out, "w"))
"""


@pytest.mark.slow
def test_loading_runs_no_code_and_writes_nothing(changed: Callable[..., Path], tmp_path: Path) -> None:
    """Audit events list all compiled, imported and opened files and connections; a folder with code causes
    none."""
    named = {
        "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
        "_name_or_path": "someone/evil",
    }
    folder = changed(lambda about: about["encoders"]["face"]["config"].update(named))
    for name in ("pytorch_model.bin", "model.pt", "weights.pkl", "uncertainty.pkl"):
        (folder / name).write_bytes(pickle.dumps(_Harmful()))
    for name in ("evil.py", "__init__.py", "setup.py", "sitecustomize.py", "model.py"):
        (folder / name).write_text("open('harm-was-done', 'w')")
    (folder / "config.json").write_text(json.dumps({**named, "model_type": "evil"}))
    out = tmp_path / "events.json"
    command = [sys.executable, "-c", WATCH, str(folder), str(find_checkpoint(STARTER)), str(out)]
    subprocess.run(command, check=True, cwd=folder, timeout=300)
    assert json.loads(out.read_text()) == []
    assert not (folder / "harm-was-done").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("by_modalities", {"face": {"n_clips": 1}}),
        ("coverage", None),
        ("recalibration", [{"x": ["a"]}]),
        ("by_modalities", {"face": {"n_clips": float("inf"), "half_widths": []}}),
    ],
)
def test_a_changed_uncertainty_is_refused(key: str, value: object, changed: Callable[..., Path]) -> None:
    folder = changed(lambda about: None)
    about = parse_json_object((folder / "uncertainty.json").read_text())
    (folder / "uncertainty.json").write_text(format_json({**about, key: value}))
    with pytest.raises(ModelError, match=r"uncertainty.json: damaged"):
        load_uncertainty(folder)
