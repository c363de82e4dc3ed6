# Everything a newcomer or CI needs: `make demo`, `make test`; developers also `make check`, `make fix`, `make docs`.
# Each target sets up .venv first (Python 3.11 or 3.12); nothing else has to be installed.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
PYTEST_WORKERS ?= 2
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check fix lint types rooms docs docs-reference docs-studies setup clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else "polycycle needs Python 3.11 or newer, this is %d.%d: install it, or say PYTHON=/path/to/python3.11" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,eval]'
	touch $@

.venv/docs: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs,eval]'
	touch $@

demo: setup
	OMP_NUM_THREADS= $(BIN)/polycycle demo

test: setup
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal

check: lint types rooms test

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

rooms: setup
	$(BIN)/lint-imports

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation as a site, in site/: open site/index.html. Broken links fail it.
docs: .venv/docs
	$(BIN)/python -m tools.reference --check
	$(BIN)/mkdocs build --strict --quiet

# The pages of docs/reference, written from the recipe's schema and the commands.
docs-reference: setup
	$(BIN)/python -m tools.reference

# docs/studies.md and its plots, from the results in benchmarks/studies.
docs-studies: setup
	$(BIN)/python -m tools.studies

clean:
	rm -rf .venv polycycle-demo build dist site
