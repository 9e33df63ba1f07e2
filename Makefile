# jaxgen's everyday commands. They need Python 3.11 or newer and make, nothing else.
#   make demo     install, train on the embedded corpus, print samples
#   make test     the tests, in parallel; XLA_FLAGS= ARGS='-m slow' runs those that compile long
#   make lint     ruff, mypy
#   make bench    the benchmark suite, quick grid, and the report
#   make bench-peers    training and sampling beside PyTorch, Flax and Keras, and the report
#   make bench-gpu      half an hour on one GPU, beside PyTorch where the environment has it;
#                       needs no network once installed
# PYTHON=... picks the interpreter, VENV=... the virtual environment.

VENV ?= .venv
BIN := $(VENV)/bin
RESULTS := benchmarks/results
REPORT = $(BIN)/python -m benchmarks.report $(RESULTS) -o benchmarks/REPORT.md
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
JOBS ?= 2

.PHONY: demo test lint bench bench-peers bench-gpu format clean

demo: $(VENV)/.installed-plot
	$(BIN)/jaxgen train configs/demo.toml --out runs/demo --force
	$(BIN)/jaxgen generate runs/demo --prompt "The " --temperature 0.2 0.5 1.0 --max-new-tokens 300 --seed 0

# Tests start processes, and CI runs this again: what Python compiled once is kept for them.
test: $(VENV)/.installed-test
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench
	$(BIN)/python -m pytest benchmarks --benchmark-json=$(RESULTS)/suite.json $(ARGS)
	$(REPORT)

bench-peers: $(VENV)/.installed-bench $(VENV)/.installed-peers
	$(BIN)/python -m benchmarks.compare_training --out $(RESULTS)/training.json $(ARGS)
	$(BIN)/python -m benchmarks.compare_sampling --out $(RESULTS)/sampling.json $(ARGS)
	$(REPORT)

bench-gpu: $(VENV)/.installed-bench $(VENV)/.installed-cuda
	$(BIN)/python -m benchmarks.gpu $(ARGS)
	$(REPORT)

clean:
	rm -rf $(VENV) .pytest_cache .hypothesis .ruff_cache .mypy_cache build dist

# A command of a version manager may exist and yet not run, so each candidate is run.
$(VENV)/bin/python:
	@for python in $(PYTHON) python3.13 python3.12 python3.11 python3.14 python3 python; do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "creating $(VENV) with $$($$python --version)"; exec "$$python" -m venv $(VENV); \
	  fi; \
	done; echo "no Python 3.11 or newer found; name one with: make PYTHON=/path/to/python" >&2; exit 1

# Each stamp is younger than pyproject.toml when its packages are in place. They are compiled on
# every core, where pip takes one; some hold files that no Python of today can read.
$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	@echo "installing jaxgen with what $* needs (a minute or so the first time)"
	@$(PIP) --no-compile --editable '.[$*]'
	@$(BIN)/python -m compileall -j 0 -qq $(VENV)/lib >$(VENV)/compiled.log 2>&1 || true
	@touch $@
