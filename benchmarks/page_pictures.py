"""The pictures of the page in the README: a drawn face, scored by the starter model, wide and on a phone.

    python benchmarks/page_pictures.py --out docs

Needs the extras ``serve`` and ``dev``, and Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from reactometer.synthetic.clip import clip_plan, render_clip
from reactometer.types import SOUND_RATE_HZ

SIZE_PX, RATE_HZ = 320, 12
REACTIONS = (3, 18, 9, 21)
"""Places in the embedded data set, whose reactions one person shows one after another."""
AWAY = slice(100, 124)
"""Frames in which the person is not there."""
MOMENT_S = 3.0
SHAPES = {
    "page": {"viewport": {"width": 1280, "height": 900}},
    "page-phone": {"viewport": {"width": 360, "height": 1560}, "is_mobile": True, "has_touch": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs"))
    out: Path = parser.parse_args().out
    with TemporaryDirectory() as name, sync_playwright() as tool:
        folder = Path(name)
        clip = write_clip(folder / "reaction.mp4")
        browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with serving(folder) as address:
            for picture, shape in SHAPES.items():
                take(browser, address, clip, out / f"{picture}.png", shape)


def write_clip(file: Path) -> Path:
    """One drawn person, four reactions of 4 s, with a voice."""
    plans = [clip_plan(index, duration_s=4.0, rate_hz=RATE_HZ, size_px=SIZE_PX) for index in REACTIONS]
    clips = [
        render_clip(replace(plan, appearance=plans[0].appearance, voice=plans[0].voice)) for plan in plans
    ]
    frames = np.concatenate([frames for frames, _ in clips])  # (T, H, W, 3)
    frames[AWAY] = frames[AWAY].mean(axis=(1, 2), keepdims=True).astype(np.uint8)
    waveform = np.concatenate([sound for _, sound in clips if sound is not None])  # (S,)
    with av.open(str(file), "w") as container:
        video = container.add_stream("libx264", rate=RATE_HZ)
        video.width = video.height = SIZE_PX
        sound = container.add_stream("aac", SOUND_RATE_HZ, layout="mono")
        audio = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
        audio.sample_rate, audio.pts = SOUND_RATE_HZ, 0
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux([*video.encode(None), *sound.encode(audio), *sound.encode(None)])
    return file


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run the service, and yield its address."""
    command = [sys.executable, "-m", "reactometer", "serve", "--port", "0", "--jobs", str(folder / "jobs")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            yield next(line for line in process.stderr if line.startswith("http")).split()[0]
        finally:
            process.terminate()


def take(browser: Browser, address: str, clip: Path, picture: Path, shape: dict[str, Any]) -> None:
    """One picture, of the page when it has the clip's curves."""
    page = browser.new_context(**shape).new_page()
    page.goto(address)
    page.click("#options summary")
    page.fill("[name=hop_s]", "0.5")
    page.set_input_files("#file", clip)
    for wanted in (
        "document.querySelector('#timeline').data?.length",
        "document.querySelector('video[src]').readyState",
    ):
        while not page.evaluate(wanted):
            time.sleep(0.1)
    page.evaluate("(moment) => { document.querySelector('#players video').currentTime = moment }", MOMENT_S)
    page.wait_for_timeout(1500)
    page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0) }")
    page.screenshot(path=picture, full_page=picture.stem == "page")
    page.context.close()
    Image.open(picture).convert("RGB").quantize(256).save(picture, optimize=True)


if __name__ == "__main__":
    main()
