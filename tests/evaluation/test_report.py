"""The report: a page that a real browser draws without a network, whose figures are those of evaluate."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from reactometer.data.cache import PreparedRow, PreparedSet, write_index
from reactometer.errors import ModelError, OutputError
from reactometer.evaluation.report import report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=20000"),
]


@pytest.fixture(scope="module")
def out(frozen_folder: Path, prepared: PreparedSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on the small data set, one of whose clips has a name that would like to be code."""
    folder = tmp_path_factory.mktemp("report")
    data = Path(shutil.copytree(prepared.folder, folder / "data"))
    first, *others = prepared.rows
    taken = replace(
        first, clip=replace(first.clip, clip_id="</script><script>document.title='taken'</script>")
    )
    write_index(replace(prepared, folder=data, rows=(taken, *others)))
    report(frozen_folder, data, folder / "out", split="all", robustness=False, progress=False)
    return folder / "out"


def test_it_needs_nothing_from_elsewhere(out: Path) -> None:
    text = (out / "report.html").read_text(encoding="utf-8")
    body = text[text.rindex("</head>") :]
    assert 'src="http' not in body
    assert "<link" not in text[: text.index("<style>")]
    assert {path.name for path in out.iterdir()} >= {"report.html", "metrics.json", "predictions.csv"}


def test_its_figures_are_those_of_the_evaluation(out: Path) -> None:
    content = json.loads((out / "metrics.json").read_text())
    text = (out / "report.html").read_text(encoding="utf-8")
    assert f"<b>{content['mean_pearson']:.3f}</b>" in text
    interval = content["intervals"]["mean"]["pearson"]
    assert f"{interval['low']:.3f} to {interval['high']:.3f}" in text
    for kind in ("pearson", "mean_ccc", "mean_mae"):
        values = content[kind].values() if isinstance(content[kind], dict) else [content[kind]]
        assert all(f"{value:.3f}" in text for value in values)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_draws_it(out: Path, tmp_path: Path) -> None:
    """Every figure is SVG in the page, and no name in the data runs as a script."""
    command = [
        str(BROWSER),
        *QUIET,
        f"--user-data-dir={tmp_path}",
        "--dump-dom",
        (out / "report.html").as_uri(),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert dom.count("<svg") == dom.count('<figure class="plot">') >= 2
    assert "<script" not in dom
    assert "<title>taken" not in dom
    assert dom.count('class="worst"') == 1


def _of_one_first_label(row: PreparedRow) -> PreparedRow:
    return replace(row, clip=replace(row.clip, labels=(0.5, *(row.clip.labels or ())[1:])))


@pytest.mark.slow
def test_labels_that_do_not_vary_are_no_score_and_no_crash(
    frozen_folder: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(prepared.folder, tmp_path / "data"))
    rows = [row if row.clip.labels is None else _of_one_first_label(row) for row in prepared.rows]
    write_index(replace(prepared, folder=data, rows=tuple(rows)))
    page = report(frozen_folder, data, tmp_path / "out", split="val", robustness=False, progress=False)
    assert "predictions or labels do not vary" in page.read_text(encoding="utf-8")


def test_an_output_folder_that_is_a_file_is_refused_first(
    frozen_folder: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        report(frozen_folder, prepared.folder, tmp_path / "file", progress=False)


def test_a_missing_model_is_named(prepared: PreparedSet, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such checkpoint"):
        report(tmp_path / "nothing", prepared.folder, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
