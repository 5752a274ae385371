"""Runs from and into an object store: a real S3-compatible server that runs beside the tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reactometer.batch import lease
from reactometer.batch.inputs import find_files
from reactometer.batch.places import Place, place
from reactometer.batch.run import Workers, predict_folder
from reactometer.errors import ConfigError, DataError, OutputError


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SETTLED_S", 0.0)


def test_a_store_is_written_and_read_as_a_folder_is(bucket: str, tmp_path: Path) -> None:
    for folder in (place(bucket).beside("files"), place(tmp_path / "files"), place(f"file://{tmp_path}/others")):
        folder.make()
        assert folder.names() == []
        file = folder.beside("a file? 1=1.txt")
        file.write(b"one")
        file.write(b"two")
        assert (file.read(), file.about()[0], folder.names(), folder.names(".mp4")) == (
            b"two",
            3,
            [Path(file.name).name],
            [],
        )
        with file.on_disk() as copy:
            assert copy.read_bytes() == b"two"
        assert copy.exists() == (not folder.is_remote)
        assert file.sha256() == "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"
        file.delete()
        file.delete()
        assert not file.is_file()
        with pytest.raises(FileNotFoundError, match="No such file"):
            file.about()


def test_a_server_can_be_named_in_the_address(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    folder = Place(f"{bucket}/named?endpoint_override={host}&scheme=http")
    folder.beside("in/one.mp4").write(b"1")
    assert find_files([folder.name]) == [f"{bucket}/named/in/one.mp4?endpoint_override={host}&scheme=http"]
    assert find_files([f"{bucket}/named/*.mp4?endpoint_override={host}&scheme=http"]) == find_files([folder.name])


def test_files_of_a_store_are_found_as_on_a_disk(bucket: str) -> None:
    folder = place(bucket).beside("found")
    for name in ("b.mp4", "a.MOV", "in/c.wav", "in/.hidden.mp4", ".cache/d.mp4", "notes.docx"):
        folder.beside(name).write(name.encode())
    folder.beside("list.txt").write(b"b.mp4\nin/c.wav\ns3://other/e.mp4\n")
    found = [folder.beside(name).name for name in ("a.MOV", "b.mp4", "in/c.wav")]
    assert find_files([folder.name]) == find_files([f"{folder.name}/"]) == found
    assert find_files([f"{folder.name}/in/*.wav", f"{folder.name}/b.mp4"]) == found[2:] + found[1:2]
    assert find_files([f"{folder.name}/list.txt"]) == [*found[1:], "s3://other/e.mp4"]
    for nothing in (f"{folder.name}/none", f"{folder.name}/none/*.mp4", "s3://no-such-bucket/a"):
        with pytest.raises(DataError, match="no video or sound"):
            find_files([nothing])


@pytest.mark.slow
def test_a_run_from_a_store_into_it_is_the_run_on_the_disk(
    bucket: str, put: Callable[[Path, str], str], videos: Path, check_run: Callable[..., None]
) -> None:
    source, out = put(videos, "clips"), f"{bucket}/results/run"
    result = predict_folder([source], out, device="cpu", workers=Workers(1), progress=False)
    assert (result.n_files, result.n_computed, list(result.failures)) == (7, 6, [f"{source}/b/broken.mp4"])
    assert f"{source}/b/broken.mp4" in result.failures[f"{source}/b/broken.mp4"]  # and not a copy's name
    check_run(out, videos, source)
    again = predict_folder([source], out, device="cpu", workers=Workers(1), progress=False)
    assert (again.n_computed, again.n_before) == (0, 6)
    assert not place(out).beside(lease.LOCK).is_file()


def test_one_process_at_a_time_is_at_work_in_a_store(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place(bucket).beside("leased")
    with (
        lease.alone(folder),
        pytest.raises(OutputError, match="another process"),
        lease.alone(folder),
    ):
        pass
    with monkeypatch.context() as ahead, lease.alone(folder):
        ahead.setattr("time.time", lambda: 4e9)  # this machine's clock tells nothing of the store's
        with pytest.raises(OutputError, match="another process"), lease.alone(folder):
            pass
    folder.beside(lease.LOCK).write(b"of one that was killed")
    with pytest.raises(OutputError, match="another process"), lease.alone(folder):
        pass
    monkeypatch.setattr(lease, "LAPSED_S", -10.0)
    with lease.alone(folder):
        assert folder.beside(lease.LOCK).read() != b"of one that was killed"
    assert folder.names() == []
    with lease.alone(folder):
        folder.beside(lease.LOCK).write(b"of one that came when it had lapsed")
    assert folder.names() == [lease.LOCK]
    folder.beside(lease.LOCK).delete()
    monkeypatch.setattr("reactometer.batch.lease.time.sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt), lease.alone(folder):
        pass
    assert folder.names() == []  # Ctrl-C while it settles: nobody has to wait


@pytest.mark.slow
def test_what_is_no_place_is_told(bucket: str, videos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such kind of place"):
        predict_folder([videos], "ftp://host/run", progress=False)
    with pytest.raises(OutputError, match=r"s3://no-such-bucket/run"):
        predict_folder([videos], "s3://no-such-bucket/run", progress=False)
    shutil.copy(videos / "a" / "0.mp4", tmp_path)
    (tmp_path / "list.txt").write_text(f"0.mp4\n{bucket}/gone.mp4\n")
    result = predict_folder([tmp_path / "list.txt"], tmp_path / "out", workers=Workers(1), progress=False)
    assert result.failures == {f"{bucket}/gone.mp4": "No such file or directory"}
