# Every target installs what it needs into $(VENV) first; nothing else on the machine is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTOS := $(wildcard protos/federation/v1/*.proto)
PLUGINS := --plugin=$(BIN)/protoc-gen-mypy --plugin=$(BIN)/protoc-gen-mypy_grpc
PROTOC = $(BIN)/python -m grpc_tools.protoc -I protos $(PLUGINS) --python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1)
# Wire compatibility is held against this image of the protos, which a release replaces: `make proto-baseline`.
BASELINE := protos/baseline.binpb
TEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: help setup demo test long lint type imports proto proto-check proto-baseline bench verify check clean
.DEFAULT_GOAL := help

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Python 3.11 or later is needed, this is {v.major}.{v.minor}; try: make PYTHON=python3.11") if v < (3, 11) else None'
	@echo "installing into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP) ## Make the virtual environment and install everything (the others do it when needed)

demo: $(STAMP) ## Watch a home gateway read a work gateway's data over mutual TLS
	@$(BIN)/mosaic demo

test: $(STAMP) ## Run the tests (of PostgreSQL and of the documents a part)
	$(TEST) -m "not long and not postgres and not documents"

long: $(STAMP) ## Run the tests that take minutes
	$(TEST) -m long

lint: $(STAMP) ## Check style, format and protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint
	$(BIN)/buf format -d --exit-code
	$(BIN)/buf breaking --against $(BASELINE)

type: $(STAMP) ## Check types
	$(BIN)/mypy

imports: $(STAMP) ## Check that imports follow the layers
	$(BIN)/lint-imports

proto: $(STAMP) ## Generate federation/v1 from protos/
	$(call PROTOC,.) $(PROTOS)

proto-check: $(STAMP) ## Fail if federation/v1 is not what protos/ generate
	@rm -rf build/proto && mkdir -p build/proto
	@$(call PROTOC,build/proto) $(PROTOS)
	@diff -r -x __pycache__ -x __init__.py build/proto/federation/v1 federation/v1 && echo "federation/v1 is up to date"

proto-baseline: $(STAMP) ## At a release: hold later protos against those of now
	$(BIN)/buf build -o $(BASELINE)

bench: $(STAMP) ## Measure the fast paths against bare gRPC
	$(BIN)/python -m tests.bench

verify: $(STAMP) ## Check the protocol's model and its mutants (minutes; needs Java)
	$(BIN)/python -m tests.model

check: lint type imports proto-check ## All that CI runs
	@rm -f .coverage .coverage.*
	$(TEST) -m "not long" --cov --cov-report=
	$(BIN)/coverage report

clean: ## Remove the environment and everything built
	rm -rf $(VENV) build *.egg-info .coverage .coverage.* .mypy_cache .ruff_cache .hypothesis
