# Two commands carry a fresh machine: `make demo` and `make test`. The environment is .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PEERS  := .peers

# For what pip builds with, too: older pips read the first, newer ones the second.
export PIP_CONSTRAINT       := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo docs test lint bench peers mutants clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      environment, install, then the audit of the embedded digits model"
	@echo "make docs      every figure of the course, then the documentation into site/: open site/index.html"
	@echo "make test      environment, install, lint, the whole test suite"
	@echo "make lint      ruff, mypy and the import contracts"
	@echo "make bench     the benchmarks, raw results kept"
	@echo "make peers     an environment of the libraries that the benchmarks compare with"
	@echo "make mutants   break the code on purpose: each break must fail a test"
	@echo "make clean     remove caches and builds (environments and runs stay)"

demo: $(VENV)/.core
	$(BIN)/mohs demo

docs: $(VENV)/.docs
	$(BIN)/mohs course --out build/course
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: lint
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.run

mutants: $(VENV)/.dev
	$(BIN)/python -m tests.mutate

peers: $(PEERS)/.done

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# --- environments: a stamp in each says what it holds -------------------------------------------------------------

define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "mohs needs Python 3.11 or newer; '$(PYTHON)' is not. Name one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make environments. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(1)
endef

$(BIN)/python:
	$(call make_venv,$(VENV))

$(PEERS)/bin/python:
	$(call make_venv,$(PEERS))

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.core

$(VENV)/.docs: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

# Peers pin each other's dependencies away; the last four are installed as they are. constraints.txt is ours, not theirs.
$(PEERS)/.done: export PIP_CONSTRAINT :=
$(PEERS)/.done: export PIP_BUILD_CONSTRAINT :=
$(PEERS)/.done: Makefile | $(PEERS)/bin/python
	$(PEERS)/bin/python -m pip install --quiet torch==2.13.0 numpy scipy scikit-learn pillow safetensors packaging tqdm six \
	  foolbox adversarial-robustness-toolbox secml-torch
	$(PEERS)/bin/python -m pip install --quiet --no-deps adv-lib torchattacks cleverhans pyautoattack
	@touch $@
