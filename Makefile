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
# Processes for the tests: more than 8 only wait for each other to import JAX.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2); \
	[ $$n -gt 8 ] && n=8; echo $$n)
FUZZ_SECONDS ?= 600
# uv where it is installed, else what comes with Python; `make UV= ...` forces that.
UV := $(shell command -v uv 2>/dev/null)
make_venv = $(if $(UV),$(UV) venv -q --allow-existing --python $(PYTHON) $(1),\
	$(PYTHON) -m venv $(1))
install = $(if $(UV),$(UV) pip install -q --python $(1)/bin/python,\
	$(1)/bin/python -m pip install -q)
require_python = @test -n "$(PYTHON)" || { \
	echo "Python 3.11 or newer is needed: install it, or make PYTHON=/path/to/python"; \
	exit 1; }

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow fuzz test-lowest bench examples docs dist release-check \
	lint format types layers checks check clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: $(VENV)/.run ## lists, plans and loads the BERT checkpoint; compares with TF 1.15
	$(BIN)/python examples/bert_demo.py

test: $(VENV)/.test ## the tests, without those marked slow
	$(BIN)/python -m pytest -q -n $(JOBS) $(PYTEST_ARGS)

test-slow: $(VENV)/.test ## the tests marked slow, those against TensorFlow included
	$(BIN)/python -m pytest -q -m slow $(PYTEST_ARGS)

fuzz: $(VENV)/.test ## fuzzes the readers for FUZZ_SECONDS (600), in little memory
	TF2FLAX_FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -q tests/package/test_fuzz.py

test-lowest: ## the tests on the oldest versions that pyproject.toml allows
	$(require_python)
	$(call make_venv,.venv-lowest)
	$(call install,.venv-lowest) -e '.[test]' -c tests/lowest.txt
	.venv-lowest/bin/python -m pytest -q -n $(JOBS) $(PYTEST_ARGS)

bench: .venv-bench/.made ## measures and writes docs/benchmarks.md; BENCH_ARGS='--small'
	.venv-bench/bin/python -m benchmarks $(BENCH_ARGS)

# Model files are imported by the examples that fill them; they have no output.
examples: $(VENV)/.run ## every example: each compares itself with TensorFlow 1.15
	@for f in $$(grep -l __main__ examples/*.py); do \
		echo "== $$f"; $(BIN)/python -W error $$f || exit 1; done

docs: $(VENV)/.docs ## the site, strictly: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -q

dist: $(VENV)/.release ## wheel and sdist in dist/, checked
	rm -rf dist
	$(BIN)/python -m build -q
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m checks.dist dist

# Slow: what RELEASE.md asks for before a version is tagged; `.ci/run` does not run it.
release-check: check examples docs dist ## all checks, and dist in fresh 3.11, 3.12, 3.13
	@for v in 3.11 3.12 3.13; do \
		p=$$(command -v python$$v); $$p -c '' 2>/dev/null || \
		p=$$(ls -d $(HOME)/.pyenv/versions/$$v*/bin/python 2>/dev/null | tail -n 1); \
		test -n "$$p" || { echo "python$$v is needed"; exit 1; }; \
		echo "== the wheel on $$($$p --version)"; \
		rm -rf build/fresh && $$p -m venv build/fresh && \
		build/fresh/bin/python -m pip install -q "$$(ls dist/*.whl)[keras]" && \
		( cd build && fresh/bin/python -W error ../checks/installed.py ) || exit 1; \
	done

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

checks: $(VENV)/.dev ## names, sizes, comments, the walk of one leaf, the pictures
	$(BIN)/python -m checks.names
	$(BIN)/python -m checks.sizes
	$(BIN)/python -m checks.walk
	$(BIN)/python -m checks.picture --check
	$(BIN)/python -m checks.plan_pictures --check

check: lint types layers checks test demo ## all of these

clean: ## removes what the commands above made
	rm -rf build dist .venv .venv-lowest .venv-bench .venv-3.13 .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/.docs: pyproject.toml | $(VENV)/.made
	$(call install,$(VENV)) -e '.[docs]'
	@touch $@

$(VENV)/.release: pyproject.toml | $(VENV)/.made
	$(call install,$(VENV)) -e '.[release]'
	@touch $@

# A stamp of its own, so that an environment cut short is made again.
$(VENV)/.made:
	$(require_python)
	$(call make_venv,$(VENV))
	@touch $@

# One stamp for each set of packages; a newer pyproject.toml makes them again.
$(VENV)/.run: pyproject.toml | $(VENV)/.made
	$(call install,$(VENV)) -e .
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/.made
	$(call install,$(VENV)) -e '.[test]'
	@touch $@ $(VENV)/.run

$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	$(call install,$(VENV)) -e '.[dev]'
	@touch $@ $(VENV)/.test $(VENV)/.run

.venv-bench/.made: pyproject.toml
	$(require_python)
	$(call make_venv,.venv-bench)
	$(call install,.venv-bench) -e '.[bench]'
	@touch $@
