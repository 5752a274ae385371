"""A model folder of somebody unknown: it runs nothing, reaches nothing, and is refused before it costs anything."""

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
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reactometer.errors import ModelError
from reactometer.io import format_json, parse_json_object
from reactometer.models.folder import load_model
from reactometer.models.uncertainty import load_uncertainty
from reactometer.paths import STARTER


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """The starter model with a description that is changed by a function; its weights are as they were."""

    def changed(change: Callable[[dict[str, Any]], object]) -> Path:
        folder = Path(shutil.copytree(STARTER, tmp_path / "model"))
        about = json.loads((folder / "model.json").read_text())
        change(about)
        (folder / "model.json").write_text(json.dumps(about))
        return folder

    return changed


class _NoLargeTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses tensors of 100 MB and more, on any device but PyTorch's "meta", which allocates nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            assert not isinstance(tensor, torch.Tensor) or tensor.device.type == "meta" or tensor.nbytes < 100e6
        return result


def _face(**settings: object) -> Callable[[dict[str, Any]], object]:
    return lambda about: about["encoders"]["face"]["config"].update(settings)


def _other(kind: str, **settings: object) -> Callable[[dict[str, Any]], object]:
    return lambda about: about["encoders"]["face"].update(config={"model_type": kind, **settings})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_face(hidden_sizes=[64, 128, 65536]), "another shape.*face_encoder.net"),
        (_face(depths=[3, 3, 100_000]), "more layers than there are weights"),
        (_face(depths=[3, 3, 10**9]), "beyond reason: depths"),
        (_other("vit", hidden_size=65536, num_attention_heads=1), "weights of another shape"),
        (_other("vit", num_hidden_layers=100_000), "more layers than there are weights"),
        (_other("dinov2", num_hidden_layers=10**9), "beyond reason"),  # a list of all their names
        (_other("vit", image_size=100_000), "beyond reason: 1 frames of 100000 px"),
        (_other("videomae", num_frames=100_000), "beyond reason"),  # a table of all places, in Python
        (_other("vit", num_attention_heads=0), "ZeroDivisionError"),
        (lambda about: about["encoders"].update(face={"given": 2**20}), "weights of another shape"),
        (lambda about: about["encoders"].update(voice={"convolution": 2**20}), "weights of another shape"),
        (lambda about: about["config"]["model"].update(hidden=8192, layers=24), "weights of another shape"),
        (lambda about: about.update(labels=[str(n) for n in range(100_000)]), "weights of another shape"),
    ],
)
def test_what_its_weights_do_not_fill_is_refused_before_it_is_allocated(
    change: Callable[[dict[str, Any]], object], message: str, changed: Callable[..., Path]
) -> None:
    folder = changed(change)
    with _NoLargeTensor(), pytest.raises(ModelError, match=f"damaged.*{message}"):  # type: ignore[no-untyped-call]
        load_model(folder, "cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.update(evil=1),
        lambda about: about["encoders"].update(evil={}),
        lambda about: about["encoders"]["face"].update(evil="code.py"),
    ],
)
def test_an_unknown_field_is_refused(change: Callable[[dict[str, Any]], object], changed: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"damaged.*evil"):
        load_model(changed(change), "cpu")


class _Harmful:
    """Unpickled, it would write a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm-was-done"),))


WATCH = """
import json, sys
from pathlib import Path
from reactometer.models.folder import load_model
folder, usual, out = sys.argv[1:]
load_model(usual, "cpu")  # what is imported late is here
told = []

def hear(event, values):
    code = getattr(values[0], "co_filename", "") if event == "exec" and values else ""
    writes = event == "open" and isinstance(values[1], str) and set(values[1]) & set("wax+")
    if event in ("compile", "import", "exec", "pickle.find_class", "ctypes.dlopen", "os.system", "subprocess.Popen"):
        told.append([event, code or repr(values)[:200]])
    elif writes or event.startswith(("socket.", "urllib", "os.remove", "os.rename", "os.mkdir", "shutil.", "os.exec")):
        told.append([event, repr(values)[:200]])

sys.addaudithook(hear)
load_model(folder, "cpu")
heard = list(told)
print(json.dumps(heard), file=open(out, "w"))
"""


@pytest.mark.slow
def test_loading_runs_writes_and_asks_nothing(changed: Callable[..., Path], tmp_path: Path) -> None:
    """Python tells of all that is compiled, imported, opened and asked; of a folder full of code, there is nothing."""
    named = {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}, "_name_or_path": "someone/evil"}
    folder = changed(_face(**named))
    for name in ("pytorch_model.bin", "model.pt", "weights.pkl", "uncertainty.pkl"):
        (folder / name).write_bytes(pickle.dumps(_Harmful()))
    for name in ("evil.py", "__init__.py", "setup.py", "sitecustomize.py", "model.py"):
        (folder / name).write_text("open('harm-was-done', 'w')")
    (folder / "config.json").write_text(json.dumps({**named, "model_type": "evil"}))
    out = tmp_path / "heard.json"
    command = [sys.executable, "-c", WATCH, str(folder), str(STARTER), str(out)]
    subprocess.run(command, check=True, cwd=folder, timeout=300)
    assert json.loads(out.read_text()) == []
    assert not (folder / "harm-was-done").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bases", {"face": {"n_clips": 1}}),
        ("coverage", None),
        ("recalibration", [{"x": ["a"]}]),
        ("farthest", [1]),
        ("bases", {"face": {"n_clips": float("inf"), "half_widths": []}}),
    ],
)
def test_a_changed_uncertainty_is_refused(key: str, value: object, changed: Callable[..., Path]) -> None:
    folder = changed(lambda about: None)
    about = parse_json_object((folder / "uncertainty.json").read_text())
    (folder / "uncertainty.json").write_text(format_json({**about, key: value}))
    with pytest.raises(ModelError, match=r"uncertainty.json: damaged"):
        load_uncertainty(folder)
