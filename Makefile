# `make` lists what there is to do. Everything runs in .venv, which is made on first use.
PYTHON ?= python3
# Which torch: empty for the one that pip takes (with CUDA on Linux), or cpu, cu128, … through uv.
TORCH_BACKEND ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := $(shell grep '^torch==' requirements.lock)
# Two tests at a time, one thread each: small matrices gain nothing from more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

.DEFAULT_GOAL := help
.PHONY: help venv train benchmark test test-slow test-faults coverage audit-lock lint format check-docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## install the package and its tools into .venv, at the versions of requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "trm_lightning needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make $(or $(MAKECMDGOALS),venv) PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing $(TORCH), Lightning, Hydra and the tools of requirements.lock into $(VENV)."
ifeq ($(TORCH_BACKEND),)
	@echo "torch for CUDA takes 5.3 GB and some 10 minutes; make venv TORCH_BACKEND=cpu takes 1.5 GB."
	$(BIN)/python -m pip install --quiet "$(TORCH)"
else
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --torch-backend=$(TORCH_BACKEND) "$(TORCH)"
endif
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $(STAMP)

train: $(STAMP) ## train on the built-in corpus; more settings with ARGS="model=ar seed=1"
	$(BIN)/python -m trm_lightning.train experiment=quickstart $(ARGS)

benchmark: $(STAMP) ## measure speed on this machine; choose parts with ARGS="sections=[training]"
	$(BIN)/python -m trm_lightning.benchmark $(ARGS)

test: $(STAMP) ## run the quick tests; choose some with ARGS="tests/cli/test_check.py"
	$(PYTEST) $(ARGS)

test-slow: $(STAMP) ## run the slow tests alone
	$(PYTEST) -m slow $(ARGS)

test-faults: $(STAMP) ## kill, damage and attack runs, and print what held
	$(PYTEST) -m faults tests/faults $(ARGS)

coverage: $(STAMP) ## run the quick tests and list the lines that none of them reaches
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -q $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

lint: $(STAMP) ## check style and types (ruff, mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## rewrite the files in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check-docs: $(STAMP) ## check the commands and links of README.md and docs/ (long commands are only composed)
	OMP_NUM_THREADS=1 $(BIN)/python tests/readme_commands.py README.md docs

audit-lock: ## look for known vulnerabilities in requirements.lock (asks PyPI, through pip-audit)
	$(PYTHON) -m venv $(VENV)/pip-audit
	$(VENV)/pip-audit/bin/python -m pip install --quiet pip-audit==2.10.1
	$(VENV)/pip-audit/bin/pip-audit -r requirements.lock --no-deps --disable-pip --progress-spinner off

clean: ## remove .venv and what tools left; runs in outputs/ stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
