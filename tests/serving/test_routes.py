"""The REST interface of a real service, over HTTP."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pandas as pd
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from fixtures_of_serving import Server, Serving
from reactometer.inference.elan_vtt import write_subtitles
from reactometer.inference.predictor import predict_files
from reactometer.inference.runtime import DEVICES
from reactometer.inference.tables import clip_rows, event_rows, timeline_columns, timeline_rows, write_table

Talking = Callable[[int], Path]


@pytest.fixture(scope="module")
def server(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("service")
    with serving(folder / "data", "--max-seconds", "20") as server:
        yield server


def _values(intensities: dict[str, dict[str, float]], side: str = "value") -> list[float]:
    return [intensity[side] for intensity in intensities.values()]


def test_a_short_clip_has_the_numbers_of_predict(server: Server, talking: Talking) -> None:
    answer = server.post(talking(1), params={"frames": True})
    assert answer.status_code == 200
    document, (expected,) = answer.json(), predict_files([talking(1)], progress=False)
    (prediction,) = document["predictions"]
    assert document["status"] == "done" and document["progress"] == 1.0 and document["name"] == "clip.mp4"
    assert (document["width_px"], document["height_px"]) == (160, 160)
    assert _values(prediction["intensities"]) == pytest.approx(expected.intensities, abs=1e-5)
    assert expected.intervals and document["coverage"] == expected.coverage
    assert _values(prediction["intensities"], "low") == pytest.approx(
        [low for low, _ in expected.intervals], abs=1e-5
    )
    assert _values(prediction["intensities"], "peak") == pytest.approx(
        [peak for peak, _ in expected.peaks], abs=1e-5
    )
    assert _values(prediction["intensities"], "peak_s") == pytest.approx(
        [at_s for _, at_s in expected.peaks], abs=1e-3
    )
    assert len(prediction["timeline"]) == len(expected.windows) > 1
    for window, there in zip(expected.windows, prediction["timeline"], strict=True):
        assert (there["start_s"], there["end_s"]) == pytest.approx((window.start_s, window.end_s), abs=1e-3)
        assert _values(there["intensities"]) == pytest.approx(window.intensities, abs=1e-5)
        assert there["warnings"] == ("; ".join(window.warnings) or None)
    assert [frame["box"] for frame in prediction["frames"]] == [
        sample.box and pytest.approx(sample.box, abs=0.05) for sample in expected.samples
    ]
    level = document["voice_level"]
    assert len(level["db"]) == pytest.approx(expected.duration_s / level["step_s"], abs=1.1)
    assert max(filter(None, level["db"])) > -40
    server.wait_for_no_uploads()


@pytest.mark.slow
@pytest.mark.shared
def test_a_real_clip_has_the_numbers_of_predict(server: Server, shared_data: Path) -> None:
    clip = shared_data / "clips" / "face_noface.mov"
    answer, (expected,) = server.post(clip, clip.name), predict_files([clip], progress=False)
    assert answer.status_code == 200, answer.text
    (prediction,) = answer.json()["predictions"]
    assert _values(prediction["intensities"]) == pytest.approx(expected.intensities, abs=1e-5)
    assert [window["state"] for window in prediction["timeline"]] == [
        row["state"] for row in timeline_rows([expected])
    ]
    assert prediction["warnings"] == clip_rows([expected])[0]["warnings"]


@pytest.mark.slow
def test_formats_equal_the_files_of_the_command(server: Server, talking: Talking, tmp_path: Path) -> None:
    location = f"/v1/predictions/{server.post(talking(1)).json()['id']}"
    (prediction,) = predict_files([talking(1)], progress=False)
    write_table(timeline_rows([prediction]), timeline_columns(prediction), tmp_path / "timeline.csv")
    expected = pd.read_csv(tmp_path / "timeline.csv").assign(path="clip.mp4")

    def get(name: str, media_type: str) -> httpx.Response:
        answer = server.client.get(location, params={"format": name})
        assert answer.status_code == 200 and answer.headers["Content-Type"].startswith(media_type)
        return answer

    table = get("csv", "text/csv")
    pd.testing.assert_frame_equal(pd.read_csv(io.BytesIO(table.content)), expected, atol=1e-5)
    assert table.headers["Content-Disposition"] == 'attachment; filename="clip-timeline.csv"'
    elan = ElementTree.fromstring(get("elan", "text/x-eaf+xml").content)
    tiers = {str(tier.get("TIER_ID")): len(tier) for tier in elan.iter("TIER")}
    assert tiers["Anger (intensity)"] == len(prediction.windows)
    assert elan.find("HEADER/MEDIA_DESCRIPTOR").get("MEDIA_URL") == "clip.mp4"  # type: ignore[union-attr]
    events = pd.read_csv(io.BytesIO(get("events", "text/csv").content))
    assert list(events["label"]) == [row["label"] for row in event_rows([prediction], 0.5)]
    assert len(pd.read_csv(io.BytesIO(get("frames", "text/csv").content))) == len(prediction.samples)
    write_subtitles(prediction, tmp_path / "clip.vtt")
    assert get("vtt", "text/vtt").content == (tmp_path / "clip.vtt").read_bytes()
    assert get("json", "application/json").json()["status"] == "done"


@pytest.mark.slow
def test_a_long_clip_is_a_job(server: Server, talking: Talking) -> None:
    answer = server.post(talking(4), headers={"Prefer": "respond-async"})
    assert answer.status_code == 202 and answer.headers["Retry-After"].isdigit()
    assert answer.json()["status"] in ("queued", "running")
    location = answer.headers["Location"]
    early = server.client.get(location, params={"format": "csv"})
    assert early.status_code == 409 and "not done" in early.json()["error"]
    document = server.wait(answer)
    assert document["status"] == "done" and document["duration_s"] == pytest.approx(12, abs=0.2)
    assert server.client.delete(location).status_code == 204
    assert server.client.get(location).status_code == 404
    assert server.client.delete(location).status_code == 404


@pytest.mark.slow
def test_a_deleted_clip_stops_immediately(server: Server, talking: Talking) -> None:
    answers = [server.post(talking(6), headers={"Prefer": "respond-async"}) for _ in range(3)]
    for answer in answers:
        assert server.client.delete(answer.headers["Location"]).status_code == 204
    server.wait_for_no_uploads()
    assert server.post(talking(1)).status_code == 200


@pytest.mark.slow
def test_settings_reach_the_prediction(server: Server, talking: Talking) -> None:
    settings = {"window_s": 1, "hop_s": 0.5, "faces": "all", "smooth_s": 1, "threshold": 0.05, "rate_hz": 4}
    (prediction,) = server.post(talking(1), data=settings).json()["predictions"]
    options = {"window_s": 1.0, "hop_s": 0.5, "smooth_s": 1.0, "rate_hz": 4.0}
    (expected,) = predict_files([talking(1)], faces="all", progress=False, **options)  # type: ignore[arg-type]
    assert prediction["face"] == 1 and prediction["notes"] == list(expected.notes) != []
    timeline = [window["intensities"] for window in prediction["timeline"]]
    assert any(timeline)
    assert [intensities and _values(intensities) for intensities in timeline] == [
        window.intensities and pytest.approx(window.intensities, abs=1e-5) for window in expected.windows
    ]
    assert prediction["events"]


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"data": {"window_s": 0}}, 400, "window and hop do not fit (got window 0.0 s"),
        ({"data": {"window_s": "long"}}, 400, "window_s: Input should be a valid number"),
        ({"data": {"threshold": 2}}, 400, "event threshold out of range"),
        ({"data": {"faces": "everybody"}}, 400, "unknown choice of faces"),
        ({"data": {"baseline": "at first"}}, 400, "baseline"),
        ({"params": {"format": "cvs"}}, 400, "format: Input should be 'json', 'csv'"),
    ],
)
def test_an_invalid_option_is_an_error(
    server: Server, talking: Talking, request_: dict[str, Any], status: int, says: str
) -> None:
    answer = server.post(talking(1), **request_)
    assert answer.status_code == status
    assert says in answer.json()["error"]
    server.wait_for_no_uploads()


def test_an_error_names_the_file_of_the_client(server: Server) -> None:
    answer = server.post(b"not a film", "../../holiday.mp4")
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("cannot read holiday.mp4 (got Invalid data")
    failed = server.client.get(f"/v1/predictions/{answer.json()['id']}").json()
    assert failed["status"] == "failed" and failed["error"] == answer.json()["error"]
    table = server.client.get(f"/v1/predictions/{answer.json()['id']}", params={"format": "csv"})
    assert table.status_code == 422
    assert server.post(b"").status_code == 422


def test_clips_beyond_a_limit_are_refused(server: Server, talking: Talking) -> None:
    long = server.post(talking(8))
    assert long.status_code == 422
    assert long.json()["error"].startswith(
        "clip.mp4: too long (got 24 s; expected 20 s at most). hint: Split"
    )


def test_names_stay_text(server: Server, talking: Talking) -> None:
    answer = server.post(talking(1), '=cmd("x")\r\n.mp4', params={"format": "csv"})
    assert pd.read_csv(io.StringIO(answer.text))["path"][0].startswith("'=cmd")
    assert (
        answer.headers["Content-Disposition"].isascii() and "\n" not in answer.headers["Content-Disposition"]
    )


def test_model_health_and_metrics(server: Server, talking: Talking) -> None:
    server.post(talking(1))
    model = server.client.get("/v1/model").json()
    assert model["labels"][3] == "Happiness" and len(model["sha256"]) == 64
    assert "composite" in model["card"]
    assert model["device"] in DEVICES and model["limits"]["seconds"] == 20
    assert server.client.get("/readyz").json() == {"status": "ready"}
    metrics = server.client.get("/metrics").text
    for line in (
        'reactometer_requests_total{route="/v1/predictions",status="200"}',
        'reactometer_clip_seconds_bucket{le="0.01",stage="predict"}',
        "reactometer_queue_clips 0.0",
    ):
        assert line in metrics
    assert server.client.get("/v1/nothing").json() == {"error": "Not Found."}


def test_the_interface_describes_itself(server: Server) -> None:
    schema = server.client.get("/openapi.json").json()
    created = schema["paths"]["/v1/predictions"]["post"]
    assert {"200", "202", "413", "422", "429"} <= set(created["responses"])
    assert "text/csv" in created["responses"]["200"]["content"]
    assert schema["components"]["schemas"]["Intensity"]["properties"]["value"]["examples"]
    assert "/metrics" not in schema["paths"]


def test_other_origins_and_hosts_are_refused(server: Server) -> None:
    strange = server.client.get("/v1/model", headers={"Host": "rebound.example"})
    assert strange.status_code == 400 and "host" in strange.text
    other = server.client.post("/v1/predictions", headers={"Origin": "https://other.example"})
    assert other.status_code == 403
    live = server.address.replace("http", "ws") + "/v1/live"
    with pytest.raises(InvalidStatus, match="403"), connect(live, origin=Origin("https://other.example")):
        pass
    with connect(live, origin=Origin(server.address)) as session:
        session.send('{"type": "start"}')
        assert '"type": "ready"' in session.recv(60)
    local = server.client.get("/readyz", headers={"Origin": server.address})
    assert local.status_code == 200 and "default-src 'self'" in local.headers["Content-Security-Policy"]
