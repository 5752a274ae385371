"""CREMA-D: its real votes against figures computed another way, and made folders of its layout."""

from __future__ import annotations

import gzip
import shutil
import wave
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reactometer.config import PrepareConfig
from reactometer.data.datasets import read_dataset
from reactometer.data.prepare import prepare
from reactometer.errors import DataError
from reactometer.labels import BASIC

LEVELS = (
    "meanAngerResp",
    "meanDisgustResp",
    "meanFearResp",
    "meanHappyResp",
    "meanNeutralResp",
    "meanSadResp",
)
HEADER = ",A,D,F,H,N,S,fileName,numResponses," + ",".join(LEVELS)
FIVE = ("Anger", "Disgust", "Fear", "Happiness", "Sadness")
ANGRY = "6,0,0,1,3,0,1001_DFA_ANG_XX,10,50.0,-1.0,-1.0,40.0,70.0,-1.0"  # anger 6/10 × .5, happiness 1/10 × .4
SAD = "0,0,0,0,5,5,1002_IEO_SAD_HI,10,-1.0,-1.0,-1.0,-1.0,20.0,90.0"  # sadness 5/10 × .9


def _votes(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def _file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"media")
    return path


@pytest.mark.parametrize("folder", ["", "processedResults"])
def test_votes_become_intensities(tmp_path: Path, folder: str) -> None:
    rows = (f"100001,{SAD}", f"200001,{ANGRY}", f"300001,{ANGRY}", f"300002,{SAD}")
    _votes(tmp_path / folder / "tabulatedVotes.csv", *rows)
    manifest = read_dataset(tmp_path)
    assert manifest.labels == FIVE == BASIC[:5]
    angry, sad = manifest.clips
    assert angry.labels == pytest.approx((0.3, 0, 0, 0.04, 0))
    assert sad.labels == pytest.approx((0, 0, 0, 0, 0.45))
    assert (angry.clip_id, angry.person, angry.stimulus) == ("1001_DFA_ANG_XX", "1001", None)
    assert angry.attributes == {"Sentence": "DFA"}
    assert (angry.split, angry.problem, sad.problem) == (None, None, None)
    assert [clip.labels for clip in read_dataset(tmp_path, votes="voice").clips] == [sad.labels]
    assert [clip.labels for clip in read_dataset(tmp_path, votes="face").clips] == [angry.labels]


def test_each_kind_of_votes_has_its_media(tmp_path: Path) -> None:
    _votes(tmp_path / "tabulatedVotes.csv", *(f"{kind}00001,{ANGRY}" for kind in (1, 2, 3)))
    name = "1001_DFA_ANG_XX"

    def media_endings() -> list[str]:
        clips = [read_dataset(tmp_path, votes=votes).clips[0] for votes in ("voice", "face", "both")]
        return [clip.path.relative_to(tmp_path).as_posix() for clip in clips]

    wav, flv = f"AudioWAV/{name}.wav", f"VideoFlash/{name}.flv"
    assert media_endings() == [wav, flv, flv]  # no file exists: prepare reports it
    _file(tmp_path / wav)
    assert media_endings() == [wav, flv, wav]
    for video in (f"VideoMP4/{name}.mp4", flv):
        _file(tmp_path / video)
        assert media_endings() == [wav, video, video]


def test_demographics_are_attributes(tmp_path: Path) -> None:
    _votes(tmp_path / "tabulatedVotes.csv", f"300001,{ANGRY}", f"300002,{SAD}")
    people = tmp_path / "VideoDemographics.csv"
    people.write_text('"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","Caucasian","Not Hispanic"\n')
    first, second = read_dataset(tmp_path).clips
    assert first.attributes == {
        "Age": "51",
        "Sex": "Male",
        "Race": "Caucasian",
        "Ethnicity": "Not Hispanic",
        "Sentence": "DFA",
    }
    assert second.attributes == {"Sentence": "IEO"}
    people.write_text("Actor,Age\n1001,51\n")
    with pytest.raises(DataError, match=r"VideoDemographics\.csv.*'ActorID'"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            "300002,0,0,0,0,0,0,1002_DFA_ANG_XX,0,-1,-1,-1,-1,-1,-1",
            "votes are no numbers (float division by zero)",
        ),
        (
            "300002,6,-1,0,1,3,0,1002_DFA_ANG_XX,9,50,9,-1,40,70,-1",
            "not those of 9 raters with levels of 0 to 100",
        ),
        ("300002,10,0,0,0,0,0,1002_DFA_ANG_XX,10,101,-1,-1,40,70,-1", "not those of 10 raters"),
        ("300002,6,0,0,1,3,0,1002_DFA_ANG_XX,10,nan,-1,-1,40,70,-1", "not those of 10 raters"),
        (
            "300002,many,0,0,1,3,0,1002_DFA_ANG_XX,10,50,-1,-1,40,70,-1",
            "votes are no numbers (could not convert",
        ),
        (f"300002,{ANGRY}", "duplicate id"),
    ],
)
def test_a_bad_row_affects_only_its_clip(tmp_path: Path, row: str, problem: str) -> None:
    for rows in ([f"300001,{ANGRY}", row], [row, f"300001,{ANGRY}"]):
        _votes(tmp_path / "tabulatedVotes.csv", *rows)
        clips = read_dataset(tmp_path).clips
        assert sum(clip.problem is None for clip in clips) == 1
        assert [problem in (clip.problem or "") for clip in clips].count(True) == 1


def test_labels_can_be_chosen(tmp_path: Path) -> None:
    _votes(tmp_path / "tabulatedVotes.csv", f"300001,{ANGRY}")
    manifest = read_dataset(tmp_path, labels="Happiness,Anger")
    assert manifest.labels == ("Happiness", "Anger")
    assert manifest.clips[0].labels == pytest.approx((0.04, 0.3))
    with pytest.raises(DataError, match=r"'Surprise'.*Anger, Disgust"):
        read_dataset(tmp_path, labels="basic")


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    table = _votes(tmp_path / "tabulatedVotes.csv", f"100001,{ANGRY}")
    with pytest.raises(DataError, match=r"'sound'.*voice, face, both"):
        read_dataset(tmp_path, votes="sound")
    with pytest.raises(DataError, match=r"'face'.*100001.*200001"):
        read_dataset(tmp_path, votes="face")
    _votes(table, f"300001,{ANGRY}", header=HEADER.replace("meanHappyResp", "happy"))
    with pytest.raises(DataError, match=r"tabulatedVotes\.csv.*'meanHappyResp'"):
        read_dataset(tmp_path)


def test_a_folder_with_nothing_but_sound_is_prepared(tmp_path: Path) -> None:
    _votes(tmp_path / "data" / "tabulatedVotes.csv", f"300001,{ANGRY}", f"300002,{SAD}")
    (tmp_path / "data" / "AudioWAV").mkdir()
    with wave.open(str(tmp_path / "data" / "AudioWAV" / "1001_DFA_ANG_XX.wav"), "wb") as stream:
        stream.setparams((1, 2, 16_000, 0, "NONE", ""))
        stream.writeframes((8_000 * np.sin(np.arange(16_000) / 5)).astype("<i2").tobytes())
    settings = PrepareConfig(detector="haar", size_px=32)
    prepared = prepare(tmp_path / "data", tmp_path / "out", settings=settings, workers=1, progress=False)
    angry, sad = prepared.rows
    assert (angry.has_sound, angry.n_samples, angry.duration_s, angry.clip.problem) == (True, 0, 1.0, None)
    assert "1002_IEO_SAD_HI.flv (got no such file" in (sad.clip.problem or "")


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CREMA-D's folder of real votes, without media."""
    folder = tmp_path_factory.mktemp("crema")
    votes = gzip.decompress((shared_data / "crema_d" / "tabulatedVotes.csv.gz").read_bytes())
    (folder / "tabulatedVotes.csv").write_bytes(votes)
    shutil.copy(shared_data / "crema_d" / "VideoDemographics.csv", folder)
    return folder


@pytest.mark.slow
@pytest.mark.shared
def test_ids_of_the_real_table_name_the_rated_modality(real: Path) -> None:
    """Raters recognised the acted emotion best with face and voice, worst with the voice alone (Cao et al.
    2014)."""
    table = pd.read_csv(real / "tabulatedVotes.csv", index_col=0)
    acted = table["fileName"].str.split("_").str[2].str[0]
    hits = np.array([table[letter].to_numpy()[i] for i, letter in enumerate(acted)])
    shares = (
        pd.Series(hits).groupby(table.index // 100_000).sum()
        / table["numResponses"].groupby(table.index // 100_000).sum()
    )
    assert shares.to_dict() == pytest.approx({1: 0.409, 2: 0.582, 3: 0.636}, abs=0.01)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(("votes", "hundred_thousand"), [("voice", 1), ("face", 2), ("both", 3)])
def test_the_real_votes(real: Path, votes: str, hundred_thousand: int) -> None:
    """Every intensity again, from whole columns: (votes / raters) × (mean level / 100), 0 where nobody chose
    it."""
    manifest = read_dataset(real, votes=votes)
    assert len(manifest.clips) == 7442
    assert not any(clip.problem for clip in manifest.clips)
    assert len({clip.person for clip in manifest.clips}) == 91
    assert len({clip.attributes["Sentence"] for clip in manifest.clips}) == 12
    assert all(
        set(clip.attributes) == {"Age", "Sex", "Race", "Ethnicity", "Sentence"} for clip in manifest.clips
    )
    table = pd.read_csv(real / "tabulatedVotes.csv", index_col=0)
    assert (table[list("ADFHNS")].sum(axis=1) == table["numResponses"]).all()
    table = table[table.index // 100_000 == hundred_thousand]
    assert [clip.clip_id for clip in manifest.clips] == list(table["fileName"])
    levels = table[[level for level in LEVELS if "Neutral" not in level]].replace(-1.0, 0.0)
    expected = table[list("ADFHS")].to_numpy() / table[["numResponses"]].to_numpy() * levels.to_numpy() / 100
    np.testing.assert_allclose(np.array([clip.labels for clip in manifest.clips]), expected, atol=1e-12)


@pytest.mark.shared
def test_single_real_rows_and_the_means(real: Path) -> None:
    """Rows 100001 (1 of 11 chose happiness, level 98) and 100002 (3 of 9, level 42.667), multiplied by
    hand."""
    first, second, *_ = clips = read_dataset(real, votes="voice").clips
    assert (first.clip_id, second.clip_id) == ("1001_IEO_NEU_XX", "1001_IEO_HAP_LO")
    assert first.labels == pytest.approx((0, 0, 0, 0.0890909, 0))
    assert second.labels == pytest.approx((0, 0, 0, 0.1422222, 0))
    assert first.attributes == {
        "Age": "51",
        "Sex": "Male",
        "Race": "Caucasian",
        "Ethnicity": "Not Hispanic",
        "Sentence": "IEO",
    }
    values = np.array([clip.labels for clip in clips])
    np.testing.assert_allclose(values.mean(axis=0), [0.0818, 0.0704, 0.0637, 0.0370, 0.0530], atol=5e-5)
    assert values.min() == 0
    assert values.max() == pytest.approx(0.968)
