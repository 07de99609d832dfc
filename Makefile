# `make demo` trains the demo, `make test` tests the project. Each makes its own .venv first.
PYTHON ?= python3
BIN := .venv/bin

# Compiled modules are kept: without them each process compiles torch's anew, ten seconds long.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/pycache

.PHONY: demo test test-all test-slurm check format

demo: .venv/.done
	$(BIN)/python -m align_train

test: .venv/.done
	$(BIN)/python -m pytest -n auto -m "not long"

test-all: .venv/.done
	$(BIN)/python -m pytest -n auto

# On a real Slurm of two nodes; installed as root from Debian's packages if it is missing.
test-slurm: .venv/.done
	PATH="$$PATH:/usr/sbin" tests/slurm/install.sh
	$(BIN)/python -m pytest tests/slurm tests/commands/test_faults.py

# Changes nothing: format, lint and docstrings, types, floors. `make format` mends the first.
check: .venv/.done
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.done
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/.done: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "the module venv is missing: apt-get install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[dev]"
	@touch $@
