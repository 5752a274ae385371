"""The page in a real browser and service: its values are those of the package."""

from __future__ import annotations

import ast
import csv
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures_of_serving import Serving
from reactometer import load_model
from reactometer.paths import STARTER, find_checkpoint
from reactometer.synthetic.dataset import write_video

pytest.importorskip("fastapi", reason="the service's packages are not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CODE = "<img src=x onerror=document.title='taken'>"
KEY = "open-sesame-open-sesame"
WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 780}
CURVES = """() => document.querySelector('#timeline').data.filter((trace) => trace.meta?.kind === 'curve')
    .map(({ x, y, meta }) => ({ x: [...x], y: [...y], ...meta }))"""
PLAYER = "() => document.querySelector('#players video')"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]


@pytest.fixture(scope="module")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the starter without its screening, which refuses rendered faces."""
    folder = tmp_path_factory.mktemp("serve") / "model"
    shutil.copytree(find_checkpoint(STARTER), folder)
    (folder / "screening.safetensors").unlink()
    with (folder / "README.md").open("a", encoding="utf-8") as card:
        card.write(f"\n{CODE}\n")
    return folder


@pytest.fixture(scope="module")
def server(serving: Serving, served_model: Path) -> Iterator[str]:
    with serving(served_model.parent / "jobs", "--model", str(served_model)) as service:
        yield service.address


@pytest.fixture(scope="module")
def camera(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the video of the fake camera: a clip of the synthetic demo dataset, as a sequence of JPEGs."""
    import av
    import cv2

    file = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    with av.open(str(_clips(simulated)[0])) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    file.write_bytes(
        b"".join(cv2.imencode(".jpg", cv2.resize(frame, (640, 480)))[1].tobytes() for frame in frames)
    )
    return file


@pytest.fixture(scope="module")
def browser(camera: Path) -> Iterator[Any]:
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as tool:
        options = ["--no-sandbox", *fake, f"--use-file-for-fake-video-capture={camera}"]
        yield tool.chromium.launch(executable_path=BROWSER, args=options)


@pytest.fixture
def visit(browser: Any, server: str) -> Iterator[Callable[..., Any]]:
    """Open the page; at the end, check for requests to other addresses and for errors."""
    contexts, wrong = [], list[str]()

    def visit(address: str = server, **settings: Any) -> Any:
        context = browser.new_context(**{"viewport": WIDE, **settings})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on(
            "request",
            lambda request: wrong.append(request.url) if not _is_local(request.url, address) else None,
        )
        page.goto(address)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not [text for text in wrong if not any(status in text for status in ("401", "404", "429"))]


def _is_local(url: str, address: str) -> bool:
    return url.startswith((address, f"blob:{address}", "data:"))


def _clips(simulated: Path) -> list[Path]:
    return sorted(simulated.rglob("*.mp4"))


def _until(page: Any, condition: str) -> None:
    """Wait in this process, because the policy of the page forbids Playwright's waiting in the page."""
    deadline = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


def _score(page: Any, *files: Path, at_once: str = "#file") -> None:
    """Score a file, and optionally a second one for comparison."""
    for index, file in enumerate(files):
        page.set_input_files(at_once if index == 0 else "#second", str(file))
        _until(page, f"() => document.querySelectorAll('#players video').length === {index + 1}")
        _until(page, "() => document.querySelector('#timeline').data?.length > 0")
    _until(page, "() => document.querySelector('#players video').readyState >= 1")


def _windows(page: Any, window_s: float, hop_s: float) -> None:
    page.click("#options summary")
    page.fill("[name=window_s]", str(window_s))
    page.fill("[name=hop_s]", str(hop_s))


@pytest.mark.shared
def test_values_are_those_of_predict(
    visit: Callable[..., Any], served_model: Path, shared_data: Path
) -> None:
    file = shared_data / "clips" / "single_face.mp4"
    prediction = load_model(served_model).predict(file, progress=False)
    page = visit()
    _score(page, file)
    assert prediction.intensities
    assert prediction.intervals
    tiles = page.locator("#whole li")
    for position, index in enumerate(prediction.strongest):
        (low, high), (peak, peak_s) = prediction.intervals[index], prediction.peaks[index]
        value = f"{prediction.intensities[index]:.2f}"
        words = [
            *(prediction.labels[index], value, "peak", f"{peak:.2f}", "at", f"{peak_s:.1f}", "s"),
            *("90%:", f"{low:.2f}–{high:.2f}"),
        ]
        assert tiles.nth(position).inner_text().split() == words
    curves = page.evaluate(CURVES)
    assert [curve["label"] for curve in curves] == list(prediction.labels)
    for index, curve in enumerate(curves):
        assert curve["x"] == pytest.approx(
            [(window.start_s + window.end_s) / 2 for window in prediction.windows], abs=1e-3
        )
        values = [window.intensities[index] for window in prediction.windows if window.intensities]
        assert curve["y"] == pytest.approx(values, abs=1e-5)
    assert all(warning in page.inner_text("#warnings") for warning in prediction.warnings)
    assert prediction.windows[0].intensities
    at_the_cursor = page.locator("#timeline .value").all_inner_texts()
    assert at_the_cursor == [f"{value:.2f}" for value in prediction.windows[0].intensities]


def test_a_bad_file_shows_its_reason(visit: Callable[..., Any], tmp_path: Path, simulated: Path) -> None:
    bad = tmp_path / "holiday.mp4"
    bad.write_text("this is no video", encoding="utf-8")
    page = visit()
    page.set_input_files("#file", str(bad))
    _until(page, "() => !document.querySelector('[role=alert]').hidden")
    message = page.inner_text("[role=alert] p")
    assert "holiday.mp4" in message
    assert "cannot be" in message or "not" in message
    _score(page, _clips(simulated)[0])  # the page still works
    assert page.is_hidden("[role=alert]")


def test_a_name_with_markup_stays_text(visit: Callable[..., Any], simulated: Path, tmp_path: Path) -> None:
    name = f"{CODE}.mp4"
    file = Path(shutil.copy(_clips(simulated)[0], tmp_path / name))
    page = visit()
    _score(page, file, file)
    (tmp_path / "b").mkdir()
    bad = tmp_path / "b" / name
    bad.write_text("no video", encoding="utf-8")
    page.set_input_files("#second", str(bad))
    _until(page, "() => !document.querySelector('[role=alert]').hidden")
    assert name in page.inner_text("#title")
    page.click("#model summary")
    _until(page, "() => document.querySelector('#card').textContent.length > 0")
    assert CODE in page.inner_text("#card")
    assert page.locator("img[src=x]").count() == 0
    assert page.title() == "reactometer"


def test_a_click_on_the_timeline_or_an_event_seeks(visit: Callable[..., Any], simulated: Path) -> None:
    page = visit()
    _windows(page, 0.5, 0.25)
    page.fill("[name=threshold]", "0.05")
    _score(page, _clips(simulated)[0])
    box = page.locator("#timeline").bounding_box()
    start, end = page.evaluate("() => document.querySelector('#timeline').layout.xaxis.range")
    left, right = page.evaluate(
        "() => ['l', 'r'].map((side) => document.querySelector('#timeline').layout.margin[side])"
    )
    assert start == 0
    for share, y in ((0.5, 60), (0.25, 90)):  # on a row, and between two
        page.locator("#timeline").click(position={"x": left + (box["width"] - left - right) * share, "y": y})
        _until(page, f"() => Math.abs(({PLAYER})().currentTime - {share * end}) < .03")
    _until(
        page,
        f"() => document.querySelector('#timeline').ariaValueText.startsWith('{end / 4:.1f} s, highest ')",
    )
    event = page.locator("#events button").last
    onset_s = float(event.inner_text().split("\n")[-1].split("–")[0].split()[-1])
    event.click()
    _until(page, f"() => Math.abs(({PLAYER})().currentTime - {onset_s}) < .06")


def test_the_page_works_with_the_keyboard(visit: Callable[..., Any], simulated: Path) -> None:
    page, choosers = visit(), list[Any]()
    page.on("filechooser", lambda chooser: choosers.extend([chooser]))

    def go_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"no way to {selector} by Tab")

    go_to("#file")
    page.keyboard.press("Enter")
    page.wait_for_timeout(1000)
    choosers[0].set_files(str(_clips(simulated)[0]))
    _until(page, "() => document.querySelector('#timeline').data?.length > 0")
    _until(page, f"() => ({PLAYER})().readyState >= 2")
    go_to("#players video")
    page.keyboard.press(" ")
    _until(page, f"() => ({PLAYER})().currentTime > 0.2")
    page.keyboard.press("End")
    go_to("#timeline")
    page.keyboard.press("Home")
    _until(page, f"() => ({PLAYER})().currentTime < 0.2 || !({PLAYER})().paused")
    page.keyboard.press("ArrowRight")
    _until(page, f"() => ({PLAYER})().currentTime >= 1")
    go_to("#downloads button")
    with page.expect_download():
        page.keyboard.press("Enter")
    go_to("#second")
    go_to("#model summary")
    page.keyboard.press("Enter")
    _until(page, "() => document.querySelector('#card').textContent.includes('What it must not be used for')")


def test_a_busy_server_is_retried_with_a_message(visit: Callable[..., Any], simulated: Path) -> None:
    page, refused = visit(), list[str]()

    def refuse_once(route: Any) -> None:
        refused.append(page.inner_text("#doing"))
        busy = {
            "status": 429,
            "headers": {"Retry-After": "2"},
            "json": {"error": "too many clips in the queue"},
        }
        route.fulfill(**busy) if len(refused) == 1 else route.continue_()

    page.route("**/v1/predictions?*", refuse_once)
    page.set_input_files("#file", str(_clips(simulated)[0]))
    _until(page, "() => document.querySelector('#doing').textContent.startsWith('The server is busy')")
    _until(page, "() => document.querySelector('#timeline').data?.length > 0")
    assert len(refused) == 2


def test_a_clip_can_be_cancelled(visit: Callable[..., Any], simulated: Path) -> None:
    page, requests = visit(), list[str]()

    def never_done(route: Any) -> None:
        requests.append(route.request.method)
        if route.request.method == "DELETE":
            route.continue_()
            return
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "status": "running", "progress": 0.5})

    page.route("**/v1/predictions/*", never_done)
    page.set_input_files("#file", str(_clips(simulated)[0]))
    _until(page, "() => document.querySelector('#progress').value === 0.5")
    page.click("#cancel")
    _until(page, "() => !document.querySelector('#ask').hidden")
    page.wait_for_timeout(200)
    assert requests[-1] == "DELETE"
    assert page.is_hidden("[role=alert]")


def test_closing_the_page_deletes_its_results(visit: Callable[..., Any], simulated: Path) -> None:
    page, requests = visit(), list[str]()
    page.on("request", lambda request: requests.extend([request.url]))
    _score(page, _clips(simulated)[0])
    url = next(address.split("?")[0] for address in requests if "/v1/predictions/" in address)
    other = visit()
    status = f"() => fetch('{url}').then(({{ status }}) => status === 404)"
    assert not other.evaluate(status)
    page.close()
    _until(other, status)


def test_a_kept_result_returns_by_its_link(visit: Callable[..., Any], simulated: Path) -> None:
    page = visit()
    _score(page, _clips(simulated)[0])
    title, curves = page.inner_text("#title"), page.evaluate(CURVES)
    page.click("text=Keep for 24 hours")
    address = page.inner_text("#downloads a")
    page.close()
    back = visit()
    back.goto(address)
    _until(back, "() => document.querySelector('#timeline').data?.length > 0")
    assert back.inner_text("#title") == title
    assert back.evaluate(CURVES) == curves
    assert back.is_hidden("#players video")
    back.set_input_files("#players input", str(_clips(simulated)[0]))
    _until(back, f"() => ({PLAYER})().readyState >= 1")
    back.click("text=Delete now")
    _until(back, "() => !document.querySelector('#ask').hidden")
    back.goto("about:blank")
    back.goto(address)
    _until(back, "() => !document.querySelector('[role=alert]').hidden")
    assert "no prediction" in back.inner_text("[role=alert] p")


def test_the_example_marks_the_time_without_a_face(visit: Callable[..., Any]) -> None:
    page = visit()
    page.click("#example")
    _until(page, "() => document.querySelector('#timeline').data?.length > 0")
    kinds = page.evaluate("() => document.querySelector('#timeline').data.map(({ meta }) => meta.kind)")
    assert "voice" in kinds
    assert "No face; the values use only the voice" in page.inner_text("#unseen")
    page.click("text=Timeline as a table")
    _until(page, "() => document.querySelector('#rows tbody tr')")
    rows = [row.inner_text().split() for row in page.locator("#rows tbody tr").all()]
    curves = page.evaluate(CURVES)
    assert [row[-1] for row in rows] == [f"{value:.2f}" for value in curves[-1]["y"]]


def test_values_with_a_warning_are_muted(visit: Callable[..., Any], simulated: Path, tmp_path: Path) -> None:
    import av

    with av.open(str(_clips(simulated)[0])) as container:
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    frames = np.stack(images).astype(np.uint8)
    write_video(tmp_path / "silent.mp4", frames, 10.0, None)
    page = visit()
    _score(page, tmp_path / "silent.mp4")
    assert "voice not used: no sound" in page.inner_text("#warned")
    assert page.locator(".tiles.warned").count() == 1
    page.click("text=Why?")
    assert page.is_visible("text=A value with a warning is no evidence")


def test_the_request_as_code_gives_the_same_result(
    visit: Callable[..., Any], simulated: Path, tmp_path: Path
) -> None:
    page = visit()
    _windows(page, 0.5, 0.25)
    file = Path(shutil.copy(_clips(simulated)[0], tmp_path / "it's a clip.mp4"))
    _score(page, file)
    page.click("text=Request as code")
    python, curl = page.locator("#codes pre").all_inner_texts()
    page.click("text=Copy as Python")
    _until(page, "() => ['Copied', 'Selected'].includes(document.querySelector('#codes button').textContent)")
    assert page.evaluate("() => getSelection().toString().trim()") == python.strip()
    value = page.locator("#whole b").first.inner_text()
    label = page.locator("#whole .name").first.inner_text()

    def run(*command: str) -> str:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert f"{ast.literal_eval(run(sys.executable, '-c', python))[label]['value']:.2f}" == value
    table = run("sh", "-c", curl)
    first = page.evaluate(CURVES)[0]
    rows = list(csv.DictReader(table.splitlines()))
    assert [float(row[first["label"]]) for row in rows] == pytest.approx(first["y"])


@pytest.mark.parametrize(
    "settings",
    [{}, {"color_scheme": "dark"}, {"viewport": PHONE, "is_mobile": True, "has_touch": True}],
    ids=["light", "dark", "phone"],
)
def test_axe_finds_nothing(visit: Callable[..., Any], simulated: Path, settings: dict[str, Any]) -> None:
    page = visit(**settings)

    def check() -> None:
        results = axe.Axe().run(page)
        assert results.violations_count == 0, results.generate_report()

    check()
    page.click("#options summary")
    page.click("#model summary")
    check()
    _score(page, *_clips(simulated)[:2])
    for summary in page.locator("#result summary").all():
        if summary.is_visible():
            summary.click()
    page.locator("text=Keep for 24 hours").first.click()
    check()
    page.click("nav a[href='#live']")
    check()


def test_two_clips_are_compared(visit: Callable[..., Any], served_model: Path, simulated: Path) -> None:
    files = _clips(simulated)[:2]
    predictions = load_model(served_model).predict(files, progress=False)
    page = visit()
    _score(page, *files)
    curves = page.evaluate(CURVES)
    assert [(curve["label"], curve["clip"]) for curve in curves] == [
        (label, clip) for clip in (0, 1) for label in predictions[0].labels
    ]
    first, second = (prediction.intensities or () for prediction in predictions)
    rows = page.locator("#whole tbody tr").all()
    for index, row in zip(predictions[0].strongest, rows, strict=True):  # sorted by the first clip's peaks
        cells = [cell.split()[0] for cell in row.locator("td").all_inner_texts()]
        assert cells[:2] == [f"{first[index]:.2f}", f"{second[index]:.2f}"]
        assert float(cells[2].replace("−", "-")) == pytest.approx(second[index] - first[index], abs=0.0051)
    assert page.locator("#players video").count() == 2
    assert page.inner_text("#legend").split("\n") == [file.name for file in files]
    page.click("#again")
    assert page.is_visible("#ask")


def test_downloads_have_the_values_of_the_clip(visit: Callable[..., Any], simulated: Path) -> None:
    page = visit()
    _windows(page, 0.5, 0.25)
    _score(page, _clips(simulated)[0])
    stem, curves = _clips(simulated)[0].stem, page.evaluate(CURVES)
    names = {}
    for button in page.locator("#downloads .buttons").first.locator("button").all():
        with page.expect_download() as download:
            button.click()
        names[download.value.suggested_filename] = Path(download.value.path()).read_bytes()
    suffixes = ("-timeline.csv", "-events.csv", "-frames.csv", ".json", ".eaf", ".vtt", ".png")
    assert set(names) == {stem + suffix for suffix in suffixes}
    assert names[f"{stem}.vtt"].startswith(b"WEBVTT")
    assert names[f"{stem}.png"].startswith(b"\x89PNG")
    rows = list(csv.DictReader(names[f"{stem}-timeline.csv"].decode().splitlines()))
    assert [float(row[curves[0]["label"]]) for row in rows] == pytest.approx(curves[0]["y"])


def test_the_page_fits_a_phone(visit: Callable[..., Any], simulated: Path) -> None:
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True, color_scheme="dark")

    def check() -> None:
        assert page.evaluate("() => document.documentElement.scrollWidth") == PHONE["width"]
        small = """() => [...document.querySelectorAll(
            'button:not(.inline), .button, summary, select, nav a, input:not(.away)')]
            .filter((element) => element.checkVisibility() && element.getBoundingClientRect().height < 44)
            .map((element) => element.outerHTML)"""
        assert page.evaluate(small) == []

    check()
    page.click("#options summary")
    check()
    for count in (1, 2):
        _score(page, *_clips(simulated)[:1]) if count == 1 else page.set_input_files(
            "#second", str(_clips(simulated)[1])
        )
        _until(page, f"() => document.querySelectorAll('#players video').length === {count}")
        check()
    assert page.evaluate("""() => document.querySelector('#story').getBoundingClientRect().top
        - document.querySelector('#players').getBoundingClientRect().bottom""") == pytest.approx(16)
    page.click("nav a[href='#live']")
    check()


def test_a_recording_of_the_camera_is_scored(visit: Callable[..., Any]) -> None:
    page = visit()
    page.click("#record")
    _until(page, "() => parseFloat(document.querySelector('#recorded').textContent) > 2")
    page.click("#stop")
    _until(page, "() => document.querySelector('#timeline').data?.length > 0")
    assert page.inner_text("#title").startswith("recording.")
    assert "face in" in page.inner_text("#about")
    _until(page, f"() => Number.isFinite(({PLAYER})().duration)")


def test_a_key_is_requested_once(
    visit: Callable[..., Any], serving: Serving, simulated: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(f"lab {KEY}\n", encoding="utf-8")
    with serving(tmp_path / "jobs", "--keys", str(tmp_path / "keys")) as service:
        page = visit(service.address)
        page.set_input_files("#file", str(_clips(simulated)[0]))
        _until(page, "() => document.querySelector('#lock').open")
        page.fill("#key", "a wrong key")
        page.keyboard.press("Enter")
        _until(page, "() => document.querySelector('#lock').open && !document.querySelector('#key').value")
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        _until(page, "() => document.querySelector('#timeline').data?.length > 0")
        with page.expect_download():
            page.locator("#downloads button").first.click()
        page.context.close()


def test_live_draws_a_curve(visit: Callable[..., Any]) -> None:
    page = visit()
    page.click("nav a[href='#live']")
    page.click("#live-start")
    _until(
        page, "() => document.querySelector('#live-chart').data?.[0].y.filter((y) => y !== null).length > 5"
    )
    labels = page.evaluate(
        "() => document.querySelector('#live-chart').data.map((trace) => trace.meta.label)"
    )
    assert page.locator("#live-chart .annotation").all_text_contents() == [*labels[:-1], "Voice, dB"]
    assert "–" not in page.locator("#live-chart .value").all_inner_texts()
    assert len(page.locator("#camera-id option").all_inner_texts()) > 1
    assert "ms behind" in page.inner_text("#live-late")
    _until(page, "() => document.querySelector('#live-view .boxes rect') !== null")
    page.click("#live-stop")
    assert page.inner_text("#live-state") == "Stopped."
    assert page.is_visible("#live-start")
