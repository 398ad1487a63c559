# `make demo` and `make test` need python3 (3.11 to 3.14) and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pins what is installed, and what builds it
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow lint release-check clean

demo: $(VENV)/installed
	$(BIN)/monai-sr demo --output demo_output
	@echo 'monai-sr is installed in $(VENV): call $(BIN)/monai-sr, or first activate it: . $(BIN)/activate'

test: $(VENV)/developed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/developed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/developed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

release-check: $(VENV)/developed
	$(BIN)/python .github/release_check.py

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch
	$(BIN)/python -m pip install --quiet --editable ".[cpu,plots]"
	touch $@

$(VENV)/developed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo_output dist
