"""Run the notebooks of the site, and keep their outputs: ``python docs/run_notebooks.py [NAME]...``."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

for file in sorted((Path(__file__).parent / "notebooks").glob("*.ipynb")):
    if file.stem not in (sys.argv[1:] or [file.stem]):
        continue
    notebook = nbformat.read(file, 4)
    with TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=900, record_timing=False, resources=resources).execute()
    for cell in notebook.cells:
        if "outputs" in cell:  # warnings of libraries name paths of this machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, file)
