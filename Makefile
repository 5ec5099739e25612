# Every target sets up .venv by itself, from constraints.txt; the second time that costs nothing.

PYTHON  ?= $(shell command -v python3.11 || command -v python3)
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
WORKERS ?= 2
OUT     ?= build/demo

PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check bench clean

help:      ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with every version pinned

$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'weyl needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'Setting up $(VENV): some minutes the first time' >&2
	@# An environment that was moved, or whose Python is gone, is made anew.
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@# torch by itself first: nothing else may decide which build of it is taken.
	@$(PIP) torch
	@# The build backend comes from constraints.txt, too, hence no build isolation.
	@$(PIP) hatchling editables
	@$(PIP) --no-build-isolation --editable '.[dev,hf,data,fast,lightning,torchmetrics,tensorboard,trainer]'
	@touch $@

demo: $(READY) ## Train three networks, find and prove their symmetry, align two, write a report to OUT=build/demo
	@$(BIN)/weyl demo --out $(OUT) --force

test: $(READY) ## The tests
	@$(PYTEST) -n $(WORKERS)

test-all: $(READY) ## The tests, the slow ones among them, and a minute of fuzzing
	@$(PYTEST) -n $(WORKERS) -m ''
	@$(BIN)/python -m fuzz --seconds 60

check: $(READY) ## Format, lint, types, layers, tests
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports --no-logo
	@$(PYTEST) -n $(WORKERS)

bench: $(READY) ## The benchmarks, one at a time
	@$(PYTEST) benchmarks -p no:xdist --benchmark-enable --benchmark-only

clean:     ## Remove .venv and everything that was built
	@rm -rf $(VENV) build dist .benchmarks .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
