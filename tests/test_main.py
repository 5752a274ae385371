"""Ctrl-C ends the program, whenever it comes."""

import subprocess
import sys
from pathlib import Path

SWALLOWS = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException:
    pass
"""

PROGRAM = """
import importlib, sys
import reactometer.__main__ as program
sys.modules["reactometer.cli.app"] = program  # its function runs in place of the command line
run = program.main
program.main = lambda: importlib.import_module("swallows")
run()
print("lost")
"""


def test_ctrl_c_during_an_import_that_swallows_exceptions_ends_the_program(tmp_path: Path) -> None:
    (tmp_path / "swallows.py").write_text(SWALLOWS)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=False, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")
