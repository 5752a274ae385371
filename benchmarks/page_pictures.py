"""Screenshots of the page: the example clip, scored by the starter model, wide and on a phone.

    python benchmarks/page_pictures.py

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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Browser, sync_playwright

MOMENT_S = 4.0
SHAPES = {
    "page": {"viewport": {"width": 1280, "height": 900}},
    "page-phone": {"viewport": {"width": 360, "height": 1560}, "is_mobile": True, "has_touch": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/guides"))
    out: Path = parser.parse_args().out
    with TemporaryDirectory() as name, sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with serving(Path(name)) as address:
            for picture, shape in SHAPES.items():
                take(browser, address, out / f"{picture}.png", shape)


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


def take(browser: Browser, address: str, picture: Path, shape: dict[str, Any]) -> None:
    """Write a screenshot of the page with the example's curves."""
    page = browser.new_context(**shape).new_page()
    page.goto(address)
    page.click("#options summary")
    page.fill("[name=hop_s]", "0.5")
    page.click("#example")
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


if __name__ == "__main__":
    main()
