# Needs CPython 3.11 or newer with pip, and make. Each target makes .venv, and installs into it, when that is missing
# or older than pyproject.toml.
#
#   make demo    simulate a network on a chip, then train one and its mapping together; results in runs/demo
#   make test    the tests that take seconds
#   make check   everything: all tests, lint, types, the documentation, a wheel used from outside the tree, `make quick`
#   make quick   the short form of every benchmark, each with its time
#   make docs    the documentation as a site, with the reference: build/site

PYTHON ?= python3
BIN := .venv/bin

# The networks here are small: more threads cost more than they bring, above all on a busy machine.
export OMP_NUM_THREADS ?= 1

# A file's tests stay together: they share what its fixtures compute.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test check quick docs schema clean

help:
	@sed -n 's/^#   //p' Makefile

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than Python 3.11; name another: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "==> making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

# One stamp an installation, so that `make demo` does not wait for the tools of developers.
.venv/demo.stamp: pyproject.toml | .venv/bin/python
	@echo "==> installing cosoc and what it needs (torch among it: some minutes, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[data]'
	@touch $@

.venv/dev.stamp: pyproject.toml | .venv/bin/python
	@echo "==> installing cosoc, what it needs and what its tests need (torch among it: some minutes, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.venv/docs.stamp: pyproject.toml | .venv/bin/python
	@echo "==> installing cosoc and what its documentation needs"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

demo: .venv/demo.stamp
	@echo "==> simulating ResNet-20 on DIANA, all layers on the digital array"
	@$(BIN)/cosoc simulate diana resnet20
	@echo "==> training a small network on the digits data set, and its mapping with it"
	@rm -rf runs/demo
	@$(BIN)/cosoc search diana digits_resnet --data digits --epochs 10 --out runs/demo
	@echo "==> the results are in runs/demo: result.json, plots, mappings, weights"

test: .venv/dev.stamp
	@echo "==> running the tests (all of them: make check)"
	@$(PYTEST)

check: .venv/dev.stamp .venv/docs.stamp
	@echo "==> ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "==> mypy"
	@$(BIN)/mypy
	@echo "==> all tests, slow ones and the wheel included"
	@$(PYTEST) -m 'slow or not slow'
	@$(MAKE) --no-print-directory quick

quick: .venv/dev.stamp
	@echo "==> the short form of every benchmark"
	@$(BIN)/python benchmarks/quick.py

docs: .venv/docs.stamp
	@$(BIN)/python -m mkdocs build --strict --quiet -f docs/mkdocs.yml -d "$(CURDIR)/build/site"
	@echo "==> the site is in build/site"

schema: .venv/dev.stamp
	@$(BIN)/python -m cosoc.schema

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
