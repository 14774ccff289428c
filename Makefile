# Every target does its own set-up: `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help venv demo test lint types layers pytest format lock notebook clean

help:
	@echo "make demo    real showers in, report out (in demo/)"
	@echo "make test    lint, types, layers, all tests"
	@echo "make venv    create .venv with the pinned packages"
	@echo "make format  format the code"
	@echo "make lock    renew requirements.lock (needs a network)"
	@echo "make notebook  execute the tutorial and keep what comes out"
	@echo "make clean   remove .venv, caches and demo/"

venv: $(STAMP)

# torch comes first and pinned: an open range would fetch another build of it.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed, this is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 --constraint requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $(STAMP)

demo: venv
	$(BIN)/caloforge demo --out demo --jobs $(JOBS)

test: lint types layers pytest

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

layers: venv
	$(BIN)/lint-imports

# One thread a process: the tests run side by side, and results must not depend on threads.
pytest: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --durations 15

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:
	$(PYTHON) tools/make_lock.py

notebook: venv
	OMP_NUM_THREADS=1 $(BIN)/python tools/run_notebook.py docs/photons.ipynb

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
