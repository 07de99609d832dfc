# `make demo` trains the demo, `make test` tests the project. Each makes its own .venv first.
PYTHON ?= python3
BIN := .venv/bin

# Compiled modules are kept: without them each process compiles torch's anew, ten seconds long.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/pycache

.PHONY: demo test test-all test-lowest test-slurm docs check format

demo: .venv/.done
	$(BIN)/python -m align_train
	@printf '%s\n' '' 'How to go on:' \
	  '  $(BIN)/align-train show name=demo step=1                            # the pairs of a step' \
	  '  $(BIN)/align-train embed model=outputs/demo shards=demo_data/held_out to=demo_data/index' \
	  '  $(BIN)/align-train search index=demo_data/index text="two green stars"   # draws search.png' \
	  '  $(BIN)/align-train pack source=FOLDER to=shards/mine vocabulary=8000     # your own images and texts' \
	  '  $(BIN)/align-train                                                  # lists all commands' \
	  'README.md and docs/ say more.'

test: .venv/.done
	$(BIN)/python -m pytest -n auto -m "not long"

test-all: .venv/.done
	$(BIN)/python -m pytest -n auto

# With the oldest libraries that pyproject.toml allows, in an environment of their own.
test-lowest: .venv-lowest/.done
	.venv-lowest/bin/python -m pytest -n auto -m "not long"

# On a real Slurm of two nodes; installed as root from Debian's packages if it is missing.
test-slurm: .venv/.done
	PATH="$$PATH:/usr/sbin" tests/slurm/install.sh
	$(BIN)/python -m pytest tests/slurm tests/commands/test_faults.py

# The site, in site/: any warning, such as a dead link, ends it. `--quiet` would hide the warnings.
docs: SHELL := /bin/bash -o pipefail
docs: .venv/.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build 2>&1 | sed '/^INFO/d'

# Changes nothing: format, lint and docstrings, types, floors. `make format` mends the first.
check: .venv/.done
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --num-workers auto
	$(BIN)/lint-imports

format: .venv/.done
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/.done .venv-lowest/.done: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(@D) || { echo "the module venv is missing: apt-get install python3-venv"; exit 1; }
	@$(@D)/bin/pip install --quiet --disable-pip-version-check uv
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python $(RESOLUTION) -e ".[dev]"
	@touch $@

.venv-lowest/.done: RESOLUTION := --resolution lowest-direct
