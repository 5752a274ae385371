# Two commands do all set-up with Python (3.11 or later) and pip alone: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check docs bench coverage sbom format clean
.DEFAULT_GOAL := demo

# What builds the package is pinned, too; pip before 25.3 reads the first, later ones the second.
$(READY): export PIP_CONSTRAINT := constraints.txt
$(READY): export PIP_BUILD_CONSTRAINT := constraints.txt
$(READY): pyproject.toml starter/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "reactometer needs Python 3.11 or later (got %s); try: make PYTHON=python3.11 demo" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' -e ./starter
	@touch $@

demo: $(READY)
	$(BIN)/reactometer demo -o demo

test: $(READY)
	$(BIN)/pytest -n 2 --dist loadfile

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

# The documentation as a site that needs no network: site/index.html.
docs: $(READY)
	$(BIN)/sphinx-build -q -W -E -b html docs site

# The figures of docs/benchmarks/speed.md, on this machine; about half an hour.
bench: $(READY)
	$(BIN)/python benchmarks/bench.py --out bench.md

# All packages that are installed in .venv, as CycloneDX (JSON).
sbom: $(READY)
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-file sbom.json $(BIN)/python

# Lines and branches that the tests reach, in all processes that they start; about 50 minutes on 2 cores, so not in CI.
coverage: $(READY)
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -n 2 --dist loadfile -m "not cluster and not release"
	$(BIN)/coverage run -m pytest -m cluster
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --sort=cover

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo runs site jupyter_execute .mypy_cache .ruff_cache .pytest_cache .coverage .coverage.* sbom.json
