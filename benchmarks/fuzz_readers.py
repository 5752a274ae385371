"""Coverage-guided fuzzing (atheris) of all that is read back: each reader ends in what it promises, or its own error.

    pip install atheris
    python benchmarks/fuzz_readers.py TARGET... [--seconds 600]     # of TARGETS below, or properties by name

Seeds are made here, by the package's own writers. A file is given changed bytes, or, where it is JSON, other values in
its places, with hashes put right, so that what lies behind them is reached. A property is one of those of
tests/test_properties.py (round trips of ELAN, JSON, Parquet and CSV among them), fed from the same bytes. Whatever else
is raised is a finding: it is told of once, with the bytes kept in the current folder, and the search goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import atheris
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
with atheris.instrument_imports(include=["reactometer", "test_properties"]):
    import test_properties
    from reactometer.config import Config, load_config, load_pretrain_config
    from reactometer.data.batches import Item, Part
    from reactometer.data.cache import (
        PreparedRow,
        PreparedSet,
        fresh_counts,
        load_clip,
        open_prepared,
        write_clip,
        write_index,
    )
    from reactometer.data.feature_files import prepare_features
    from reactometer.data.features import open_store, write_store
    from reactometer.data.layouts import read_data_set
    from reactometer.data.people import read_people
    from reactometer.errors import ReactometerError
    from reactometer.evaluation.paired import compare_predictions
    from reactometer.evaluation.submission import check_submission
    from reactometer.inference.formats import dump_predictions, load_predictions
    from reactometer.models.folder import join_models, load_model, save_model
    from reactometer.models.store import read_manifest
    from reactometer.models.uncertainty import Basis, Uncertainty, fit_reference, load_uncertainty, save_uncertainty
    from reactometer.models.zoo import build_model, load_encoders
    from reactometer.records import Clip, FaceSample, FrameState, Prediction, PreparedClip, Window
    from reactometer.runs.places import place
    from reactometer.runs.sources import Source, find_files
    from reactometer.runs.store import claim_run, keep_result
    from reactometer.seals import SEAL, seal, unseal
    from reactometer.serving.pieces import unpack

ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", ".", "..", "../../x", "/etc/passwd", "a\x00b", "x" * 5000, "1", "nan", "é\ud800"),
    *([], {}, [[]], [0], [None], {"": None}, {"model_type": "vit"}),
)

Reader = Callable[[bytes], object]


class _Picks:
    """Whole numbers from bytes, 0 where they have ended."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)

    def below(self, count: int) -> int:
        return int.from_bytes(self.data.read(2), "big") % count

    @property
    def rest(self) -> bytes:
        return self.data.read()


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a JSON value: what holds it, and its key."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _nodes(value[key])


def _edited(text: bytes, picks: _Picks) -> bytes:
    """JSON with up to three of its values replaced, removed or repeated; its seal, or the sum behind it, is right."""
    value, end = json.JSONDecoder().raw_decode(text.decode())
    has_sum, is_sealed = bool(text[end:].strip()), isinstance(value, dict) and value.pop(SEAL, None) is not None
    for _ in range(1 + picks.below(3)):
        nodes = list(_nodes(value))
        if not nodes:
            break
        holder, key = nodes[picks.below(len(nodes))]
        how = picks.below(len(ODD) + 2)
        if how < len(ODD):
            holder[key] = deepcopy(ODD[how])
        elif how == len(ODD) or isinstance(holder, list):
            del holder[key]
        else:
            holder[f"{key}x"] = deepcopy(holder[key])
    new = (seal(value) if is_sealed else json.dumps(value)).encode("utf-8", "surrogatepass")
    return new + b"\n" + sha256(new).hexdigest().encode() if has_sum else new


def _changed(file: Path, picks: _Picks) -> None:
    """Give a file other bytes: of JSON other values as often as not, else what is left of the input."""
    is_edited = file.suffix in (".json",) and picks.below(4)
    file.write_bytes(_edited(file.read_bytes(), picks) if is_edited else picks.rest)


def _in_a_copy(original: Path, read: Callable[[Path, _Picks], object]) -> Reader:
    folder = original.parent / "copy"

    def reader(data: bytes) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder)
        read(folder, _Picks(data))

    return reader


def _rehash(folder: Path, about: str, weights: str) -> None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        told = unseal((folder / about).read_bytes())
        told["sha256"][weights] = sha256((folder / weights).read_bytes()).hexdigest()
        (folder / about).write_text(seal(told))


def _model(folder: Path, encoder: str) -> Path:
    model = {"name": "multimodal", "encoder": encoder, "hidden": 8, "layers": 1, "size_px": 32, "attention_heads": 2}
    config = Config.model_validate({"model": model})
    encoders = load_encoders(config.model, None if encoder else {"face": 3, "voice": 2})
    network = build_model(config.model, encoders, [0.5] * 2)
    path = save_model(folder, network, ("Joy", "Fear"), config, data={}, metrics={})
    reference = fit_reference(np.random.default_rng(0).normal(size=(30, 3)))
    bases = {name: Basis(20, (0.1, 0.2)) for name in ("face and voice", "face", "voice")}
    save_uncertainty(path, Uncertainty(0.9, bases, {"clips": 20}, 1.0, (), {"face": (reference,)}, {"face": 2.0}))
    return path


def models(folder: Path) -> Reader:
    """Model folders, alone and joined, and what they say of their uncertainty."""
    _model(folder / "original" / "given", "")
    _model(folder / "original" / "resnet", "random:resnet-tiny")
    join_models([folder / "original" / "given"] * 2, folder / "original" / "joint")
    files = [file.relative_to(folder / "original") for file in sorted((folder / "original").rglob("*.*"))]

    def read(copy: Path, picks: _Picks) -> None:
        file = copy / files[picks.below(len(files))]
        _changed(file, picks)
        _rehash(file.parent, "model.json", "weights.safetensors")
        _rehash(file.parent, "uncertainty.json", "uncertainty.safetensors")
        top = file.parent.parent if file.parent.parent.name == "joint" else file.parent
        load_model(top, "cpu")
        load_uncertainty(top)

    return _in_a_copy(folder / "original", read)


def tables(folder: Path) -> Reader:
    """Manifests, people, lists of files, predictions, submissions, and features in a table."""
    file, out = folder / "table.csv", folder / "features"

    def read(data: bytes) -> None:
        picks = _Picks(data)
        which = picks.below(6)
        file.write_bytes(picks.rest)
        if which == 0:
            read_data_set(file)
        elif which == 1:
            read_people(file)
        elif which == 2:
            find_files([file])
        elif which == 3:
            compare_predictions(file, file, file, n_resamples=20)
        elif which == 4:
            check_submission(file, file)
        else:
            shutil.rmtree(out, ignore_errors=True)
            prepare_features(file, out, face="f*", voice="v*", labels=None, progress=False)

    return read


def configurations(folder: Path) -> Reader:
    """TOML files with ``key=value`` on top."""
    file = folder / "small.toml"

    def read(data: bytes) -> None:
        text, *overrides = data.decode("utf-8", "replace").split("\x00")[:3]
        file.write_text(text, encoding="utf-8")
        with contextlib.suppress(ReactometerError):
            load_config(file, overrides)
        load_pretrain_config(file, overrides)

    return read


def predictions(folder: Path) -> Reader:
    """Predictions as a run keeps them: what is read can be written, and comes back."""

    def read(data: bytes) -> None:
        picks = _Picks(data)
        text = _edited(_SOME_PREDICTIONS, picks) if picks.below(2) else picks.rest
        with contextlib.suppress(ValueError):
            read = load_predictions(text)
            assert dump_predictions(load_predictions(dump_predictions(read))) == dump_predictions(read)

    return read


def prepared(folder: Path) -> Reader:
    """Prepared clips, their table and settings, and features in shards."""
    original = folder / "original"
    (original / "clips").mkdir(parents=True)
    sample = FaceSample(0.1, FrameState.FACE, (1.0, 2.0, 3.0, 4.0), 0.9, b"\xff\xd8jpeg")
    clip = PreparedClip(0.0, 1.0, (sample, FaceSample(0.2, FrameState.NO_FACE)), np.zeros(160, np.float32), 2)
    counts = {"duration_s": 1.0, "frames_read": 2, "n_samples": 2, "n_faces": 1, "n_unreadable": 0, "has_sound": True}
    write_clip(original / "clips" / "a.npz", clip, {"a": 1}, counts)
    row = PreparedRow(Clip("a", Path("a.mp4"), "train", labels=(0.5,)), original / "clips" / "a.npz", **counts)
    write_index(PreparedSet(original, ("Joy",), Config().prepare, (row,)))
    item = Item(np.ones((2, 3), np.float32), np.ones(2, bool), np.arange(2.0), np.ones((1, 2), np.float32), np.zeros(1))
    parts = [Part(0, 0.0, 1.0)]
    write_store(original / "features", [row], parts, lambda own: [item] * len(own), {"face": 3, "voice": 2})
    files = [file.relative_to(original) for file in sorted(original.rglob("*.*")) if file.suffix != ".lock"]

    def read(copy: Path, picks: _Picks) -> None:
        file = copy / files[picks.below(len(files))]
        _changed(file, picks)
        if file.parent.name == "features":
            store = open_store(copy / "features")
            for at in store.places.values():
                store._read("face", at)
            return
        fresh_counts(copy / "clips" / "a.npz", {"a": 1})
        if file.name == "manifest.csv":
            about = {**unseal((copy / "cache.json").read_bytes()), "manifest_sha256": None}
            (copy / "cache.json").write_text(seal(about))
        for own in open_prepared(copy).rows:
            load_clip(own)

    return _in_a_copy(original, read)


def runs(folder: Path) -> Reader:
    """A run's folder: stamp, manifest, shards, failures."""
    original, stamp = folder / "original", {"model": "x", "window_s": 2.0}
    sources = [Source("a.mp4", 1, 2, "aa"), Source("b.mp4", 1, 2, "bb"), Source("c.mp4", 1, 2, "cc")]
    (good,) = load_predictions(_SOME_PREDICTIONS)
    with claim_run(place(original), stamp, everyone=False) as own:
        own.keep_manifest(sources)
        keep_result(place(original), "aa", [good])
        own.make_shards(1)
        keep_result(place(original), "bb", [good])
        keep_result(place(original), "cc", [Prediction("c.mp4", "failed: damaged", ("Joy", "Fear"))])
        own.finish(sources)
    files = [file.relative_to(original) for file in sorted(original.rglob("*.*")) if "lock" not in file.name]

    def read(copy: Path, picks: _Picks) -> None:
        _changed(copy / files[picks.below(len(files))], picks)
        with claim_run(place(copy), stamp, everyone=False) as own:
            own.known(), own.done(), own.failures()
            own.make_shards(1)
            own.finish(sources)

    return _in_a_copy(original, read)


def messages(folder: Path) -> Reader:
    """What a client of /v1/live sends; and the manifest of a bundle of weights."""

    def read(data: bytes) -> None:
        with contextlib.suppress(ValueError):
            read_manifest(data.decode("utf-8"))
        piece = unpack(data[1:], data[0] % 4 if data else 0)
        if callable(piece.content):
            piece.content()

    return read


TARGETS = {one.__name__: one for one in (models, tables, configurations, predictions, prepared, runs, messages)}

_WINDOWS = (Window(0.0, 2.0, 1.0, (0.1, 0.2), ((0.0, 0.3), (0.1, 0.4))), Window(1.0, 3.0, 0.0, None, None))
_PREDICTION = Prediction("a.mp4", "ok", ("Joy", "Fear"), 3.0, 0.5, True, (0.1, 0.2), _WINDOWS, coverage=0.9)
_SOME_PREDICTIONS = dump_predictions([_PREDICTION])


def _write_seeds(corpus: Path, folder: Path) -> None:
    """The files of the target, each behind a choice of every kind; and tables, settings and messages."""
    rows = "a.mp4,anna,0.1,0.2,train\nb.mp4,ben,0.3,0.4,val\n"
    texts = [
        f"path,person,Joy,Fear,split\n{rows}",
        f"File_ID,{','.join('ABCDEFG')}\n1,0,0,0,0,0,0,0\n2,1,1,1,1,1,1,1\n",
    ]
    texts += [
        "path,time_s,f1,f2,v1,Joy\na,0,1,2,3,0.5\na,1,1,2,3,0.5\n",
        (Path(__file__).parents[1] / "configs" / "small" / "resnet50.toml").read_text(),
    ]
    texts += ['{"format": 1, "files": {"a/b": {"sha256": "00", "bytes": 1}}}', "a.mp4\n*.mp4\n"]
    contents = [text.encode() for text in texts] + [
        b"\x01" + bytes(8) + b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x10\x00\x10"
    ]
    contents += [file.read_bytes() for file in sorted(folder.rglob("*.*")) if file.is_file()]
    contents += [bytes([0, which, 0, edit, 0, 3 * which]) * 3 for which in range(12) for edit in (1, 2)]
    for number, content in enumerate(contents):
        (corpus / f"{number}").write_bytes(content)
        (corpus / f"{number}-chosen").write_bytes(bytes([0, number % 12]) + bytes(2 * (number % 2)) + content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=600)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    for target in asked.targets:
        print(f"== {target}", flush=True)
        if (process := os.fork()) == 0:
            _fuzz(target, asked.seconds)
        _, _, used = os.wait4(process, 0)
        print(f"{target}: {used.ru_utime + used.ru_stime:.0f} s of processor time", flush=True)


def _fuzz(target: str, seconds: int) -> None:
    """Does not come back."""
    folder, corpus = (Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-")) for kind in ("files", "corpus"))
    is_file = target in TARGETS
    read = TARGETS[target](folder) if is_file else getattr(test_properties, target).hypothesis.fuzz_one_input
    _write_seeds(corpus, folder)
    found: set[tuple[str, ...]] = set()

    def test_one(data: bytes) -> None:
        try:
            read(data)
        except ReactometerError as error:
            assert "\n" not in str(error)
        except Exception as error:
            where = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
            own = (type(error).__name__, *[line for line in where if "reactometer" in line][-2:])
            if own not in found:
                found.add(own)
                kept = Path(f"found-{target}-{len(found)}.bin")
                kept.write_bytes(data)
                print(f"FOUND {kept}: {type(error).__name__}: {str(error)[:200]!r} at {own[1:]}", flush=True)

    options = [f"-max_total_time={seconds}", "-rss_limit_mb=6000", "-timeout=120", "-max_len=20000"]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(corpus)], test_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
