# Every target sets up what it needs: a virtual environment in .venv, the dependencies, the build.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
# Models and weights are never downloaded.
export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# What a pip of the distribution may be told about the system is not for a virtual environment.
export PIP_REQUIRE_VIRTUALENV :=

SOURCES := $(shell find csrc src/memomalloc -name '*.[ch]pp' -o -name '*.pyi' 2>/dev/null) \
           CMakeLists.txt cmake/find_torch.py pyproject.toml

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(VENV)/torch: 
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	@touch $@

# Editable: Python changes take effect at once, changes to C++ build anew.
$(VENV)/installed: $(VENV)/torch $(SOURCES)
	$(BIN)/python -m pip install --quiet 'scikit-build-core>=0.10' 'nanobind>=2.4' 'cmake>=3.25' ninja
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[dev]'
	@touch $@

.PHONY: install
install: $(VENV)/installed  ## make .venv with torch, memomalloc and all that development needs

.PHONY: demo
demo: $(VENV)/installed  ## show the gain on real models (under two minutes after set-up)
	$(BIN)/memomalloc demo

.PHONY: test
test: lint types native smoke pytest  ## everything: lint, types, native tests under sanitizers, smoke runs, all tests

.PHONY: pytest
pytest: $(VENV)/installed  ## the Python tests
	$(BIN)/python -m pytest

.PHONY: lint
lint: $(VENV)/installed  ## format and lint checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files '*.cpp' '*.hpp' | xargs $(BIN)/clang-format --dry-run --Werror

.PHONY: format
format: $(VENV)/installed  ## format all code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.cpp' '*.hpp' | xargs $(BIN)/clang-format -i

.PHONY: types
types: $(VENV)/installed  ## mypy --strict
	$(BIN)/mypy

.PHONY: native
native: native-thread native-address  ## native tests under ThreadSanitizer, and under Address- and UBSanitizer

.PHONY: native-thread
native-thread: $(VENV)/installed
	tests/native/run $(BIN) build/native-thread thread

.PHONY: native-address
native-address: $(VENV)/installed
	tests/native/run $(BIN) build/native-address address,undefined

.PHONY: smoke
smoke: $(VENV)/installed  ## the demo and the benchmarks, in their smallest size
	$(BIN)/memomalloc demo --smoke

.PHONY: clean
clean:  ## remove the virtual environment and all that was built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
