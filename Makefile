# Two commands do everything on a fresh machine with Python >= 3.11 and make:
#   make demo    lists a TensorFlow checkpoint, plans, loads it into Flax, compares
#   make test    runs the tests
# Both create .venv and install what they need.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	command -v $$p >/dev/null 2>&1 && \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && \
	{ echo $$p; break; }; done)
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-lowest examples lint format types layers check clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: $(VENV)/.run ## lists, plans and loads the BERT checkpoint; compares with TF 1.15
	$(BIN)/python examples/bert_demo.py

test: $(VENV)/.test ## the tests, without those marked slow
	$(BIN)/python -m pytest -q -n $(JOBS) $(PYTEST_ARGS)

test-slow: $(VENV)/.test ## the tests marked slow, those against TensorFlow included
	$(BIN)/python -m pytest -q -m slow $(PYTEST_ARGS)

test-lowest: ## the tests on the oldest versions that pyproject.toml allows
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install -q --upgrade pip
	.venv-lowest/bin/python -m pip install -q -e '.[test]' -c tests/lowest.txt
	.venv-lowest/bin/python -m pytest -q -n $(JOBS) $(PYTEST_ARGS)

examples: $(VENV)/.run ## every example
	for f in examples/*.py; do echo "== $$f"; $(BIN)/python $$f || exit 1; done

lint: $(VENV)/.dev ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev ## ruff: mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev ## basedpyright: strict, and complete public types
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	PATH="$(abspath $(BIN)):$$PATH" basedpyright --verifytypes tf2flax --ignoreexternal

layers: $(VENV)/.dev ## import-linter: imports point downwards
	$(BIN)/lint-imports

check: lint types layers test demo ## all of these

clean: ## removes what the commands above made
	rm -rf .venv .venv-lowest .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { \
		echo "Python 3.11 or newer is needed: install it, or make PYTHON=/path/to/python"; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of packages; a newer pyproject.toml makes them again.
$(VENV)/.run: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e '.[test]'
	@touch $@ $(VENV)/.run

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@ $(VENV)/.test $(VENV)/.run
