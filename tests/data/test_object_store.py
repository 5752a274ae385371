"""Files in object stores, on a real S3-compatible server: list, hash, copy and predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from reactometer.batch.run import predict_folder
from reactometer.data.files import find_files, hash_files
from reactometer.data.object_store import local_copy
from reactometer.errors import ConfigError, DataError
from reactometer.inference.predictor import predict_files
from reactometer.inference.tables import clip_rows


def test_files_of_a_bucket_are_listed_identified_and_copied(
    bucket: str, put: Callable[[Path, str], str], tmp_path: Path
) -> None:
    names = ("a.MOV", "b c?.mp4", "in/c.wav", "in/.hidden.mp4", ".cache/d.mp4", "notes.docx")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    source = put(tmp_path, "found")
    uris = [f"{source}/{name}" for name in names[:3]]
    assert find_files([source]) == find_files([f"{source}/"]) == uris
    (tmp_path / "list.txt").write_text(f"a.MOV\n{uris[1]}\n{source}/gone.mp4\nfoo://x\n")
    listed = find_files([tmp_path / "list.txt"])
    assert listed == [str(tmp_path / "a.MOV"), uris[1], f"{source}/gone.mp4", "foo://x"]
    here, there, gone, unknown = hash_files(listed)
    assert len(here.sha256) == len(there.sha256) == 64
    assert "no such file" in gone.problem
    assert "not an object store" in unknown.problem
    with local_copy(uris[1]) as copy:
        assert Path(copy).read_text() == names[1]
    assert not Path(copy).exists()
    for nothing in (f"{bucket}/none", "s3://no-such-bucket/a"):
        with pytest.raises(DataError, match="no video or sound file"):
            find_files([nothing])
    with pytest.raises(ConfigError, match="object store"):
        predict_folder([source], f"{bucket}/results", progress=False)


@pytest.mark.slow
def test_a_run_from_an_object_store_equals_a_local_run(
    put: Callable[[Path, str], str], videos: Path, tmp_path: Path
) -> None:
    source, out = put(videos, "clips"), tmp_path / "out"
    result = predict_folder([source], out, device="cpu", workers=1, progress=False)
    assert (result.n_files, result.n_computed) == (7, 7)  # a copy has another URI
    assert f"{source}/b/broken.mp4" in result.failures[f"{source}/b/broken.mp4"]  # and not a copy's name
    paths = [path for path in sorted(videos.rglob("*.mp4")) if path.name != "broken.mp4"]
    plain = [
        replace(one, path=f"{source}/{Path(one.path).relative_to(videos)}") for one in predict_files(paths)
    ]
    expected = pd.DataFrame(clip_rows(plain)).drop(columns="face")
    index = pd.read_csv(out / "files.csv")
    pd.testing.assert_frame_equal(index[expected.columns], expected, check_dtype=False, rtol=0, atol=1e-5)
    again = predict_folder([source], out, device="cpu", workers=1, progress=False)
    assert (again.n_computed, again.n_before) == (0, 7)
