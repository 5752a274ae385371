"""How many changes of the code the tests notice: mutmut's mutants of four parts, each against that part's own tests.

pip install mutmut
python benchmarks/mutants.py [metrics masks windows folder] [--keep FOLDER]

Prints one row a module, and writes every mutant that outlived the tests to FOLDER/PART/survivors.txt. With --keep, what
has been tested already is tested anew only where its function, or a test of it, has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]

PARTS = {  # modules below src/reactometer, and tests
    "metrics": (("evaluation/metrics.py",), ("evaluation/test_metrics.py",)),
    "masks": (
        ("data/batches.py", "models/pooling.py", "models/streams.py", "training/losses.py", "training/mixup.py"),
        (
            "data/test_batches.py",
            "data/test_items.py",
            "models/test_streams.py",
            "models/test_networks.py",
            "training/test_losses.py",
        ),
    ),
    "windows": (
        ("media/stream.py", "inference/cuts.py", "inference/refine.py", "inference/events.py"),
        ("media/test_stream.py", "inference/test_cuts.py", "inference/test_refine.py", "inference/test_events.py"),
    ),
    "folder": (("models/folder.py",), ("models/test_folder_to_the_letter.py",)),
}

CHEAP = (  # a plugin that collects all garbage five times takes ten times as long as the run
    *("-p", "no:unraisableexception", "-p", "no:cacheprovider", "--tb=no", "--assert=plain"),
    *("-m", "slow or not slow"),
    *("-p", "reactometer.walkthrough"),  # imported once, before the fork, and not by every mutant's fixtures
)

UNSUITED = (  # tests of seconds whose work others do in less
    "tests/evaluation/test_metrics.py::test_an_evaluation_scores_all_clips_at_once",
    "tests/evaluation/test_metrics.py::test_a_validation_scores_all_clips_at_once",
    "tests/evaluation/test_metrics.py::test_hard_inputs_score_as_elsewhere",
    "tests/models/test_networks.py::test_an_item_scores_the_same_alone_and_in_any_batch",
    "tests/training/test_losses.py::test_every_kind_of_loss_leads_to_the_labels_order",
    "tests/training/test_losses.py::test_every_other_clip_is_an_equally_likely_partner",
)


def lay_out(part: str, folder: Path) -> None:
    """A copy of what mutmut needs, with its settings for the part."""
    modules, tests = PARTS[part]
    for name in ("src", "tests", "configs", "pyproject.toml", "README.md"):
        source, target = HERE / name, folder / name
        if source.is_file():
            shutil.copy2(source, target)
        else:
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    deselected = [word for test in UNSUITED if test.split("::")[0][6:] in tests for word in ("--deselect", test)]
    settings = {
        "source_paths": ["src"],
        "only_mutate": [f"src/reactometer/{module}" for module in modules],
        "pytest_add_cli_args_test_selection": [f"tests/{test}" for test in tests],
        "pytest_add_cli_args": [*CHEAP, *deselected],
        "also_copy": ["configs", "README.md"],
    }
    lines = ["[mutmut]", "process_isolation = forkserver"]  # torch's threads do not outlive a fork
    lines += ["timeout_multiplier = 30", "timeout_constant = 60"]  # seconds: others may be at work here
    for name, values in settings.items():
        lines += [f"{name} =", *(f"    {value}" for value in values)]
    (folder / "setup.cfg").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_mutants(folder: Path, processes: int) -> None:
    """Run mutmut; the data set and the model that tests share are made once, as for the processes of pytest-xdist."""
    paths = [str(folder / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]  # where mutmut may be
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "PYTEST_XDIST_WORKER": "gw0"}
    own["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # a second a mutant
    (folder / "tmp").mkdir(exist_ok=True)
    own["PYTEST_DEBUG_TEMPROOT"] = str(folder / "tmp")
    code = "from mutmut.__main__ import cli; cli()"
    command = [sys.executable, "-c", code, "run", "--max-children", str(processes)]
    with (folder / "log.txt").open("w") as log:
        subprocess.run(
            command,
            check=False,
            cwd=folder,
            env={**os.environ, **own},
            stdout=log,
            stderr=log,
            preexec_fn=_bound_memory,
        )


def _bound_memory() -> None:
    """A loop that never ends may fill a list; two such mutants took 18 GB before their time was over."""
    resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30, 4 * 2**30))


def tell(part: str, folder: Path) -> list[str]:
    """A row a module: mutants, killed, survived, timed out, share killed; survivors are written with their change."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.stats import status_by_exit_code

    os.chdir(folder)
    rows, told = [], []
    for module in PARTS[part][0]:
        path = Path("src/reactometer", module)
        codes: dict[str, int | None] = json.loads(Path("mutants", f"{path}.meta").read_text())["exit_code_by_key"]
        ends = Counter(
            "survived" if status_by_exit_code[code] == "no tests" else status_by_exit_code[code]
            for code in codes.values()
        )
        for name, code in codes.items():
            if status_by_exit_code[code] != "killed":
                told.append(f"## {status_by_exit_code[code]} {name}\n{get_diff_for_mutant(name, path=path)}\n")
        noticed = len(codes) - ends["survived"] - ends["not checked"]
        rows.append(
            f"| {part} | `{module}` | {len(codes)} | {ends['killed']} | {ends['survived']} | "
            f"{noticed - ends['killed']} | {noticed / len(codes):.1%} |"
        )
    Path("survivors.txt").write_text("\n".join(told), encoding="utf-8")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--keep", type=Path, help="a folder to work in, outside the checkout")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        began_s, rows = time.monotonic(), []
        for part in asked.parts:
            folder = (asked.keep or Path(temporary)).resolve() / part
            folder.mkdir(parents=True, exist_ok=True)
            lay_out(part, folder)
            test_mutants(folder, asked.processes)
            rows += tell(part, folder)
    print("| part | module | mutants | killed | survived | timed out, or crashed | noticed |")
    print("| --- " * 7 + "|", *rows, f"in {(time.monotonic() - began_s) / 60:.0f} min", sep="\n")


if __name__ == "__main__":
    main()
