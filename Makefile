# Every target installs what it needs into $(VENV) first; nothing else on the machine is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What running needs, without the developer's tools: enough for the demo.
RUN_STAMP := $(VENV)/.installed-to-run
PROTOS := $(wildcard protos/federation/v1/*.proto)
PLUGINS := --plugin=$(BIN)/protoc-gen-mypy --plugin=$(BIN)/protoc-gen-mypy_grpc
PROTOC = $(BIN)/python -m grpc_tools.protoc -I protos $(PLUGINS) --python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1)
# Wire compatibility is held against this image of the protos, which a release replaces: `make proto-baseline`.
BASELINE := protos/baseline.binpb
# With COVERAGE=1 the tests record which lines they run, and `make check` reports them.
TEST = $(BIN)/python -m pytest -n 2 --dist loadfile $(if $(COVERAGE),--cov --cov-append --cov-report=)
# The tests start many interpreters, and each would compile the source again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test e2e docs-test remaining-tests long lint type imports proto proto-check proto-baseline schemas schemas-check bench verify check clean
.DEFAULT_GOAL := help

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP) $(RUN_STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Python 3.11 or later is needed, this is {v.major}.{v.minor}; try: make PYTHON=python3.11") if v < (3, 11) else None'
	@echo "installing into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.$(if $(filter $(STAMP),$@),[dev])'
	@touch $@ $(RUN_STAMP)

setup: $(STAMP) ## Make the virtual environment and install everything (the others do it when needed)

demo: $(RUN_STAMP) ## Watch a home gateway read a work gateway's data over mutual TLS
	@$(BIN)/mosaic demo

test: $(STAMP) ## Run the quick tests: units, contracts, two gateways in one process, a part of the races and of PostgreSQL
	@$(if $(COVERAGE),rm -f .coverage .coverage.*)
	$(TEST) -m "not (e2e or documents or long) and (smoke or not postgres)"

e2e: $(STAMP) ## Run the tests that start gateways and commands as processes
	$(TEST) -m "e2e and not long"

docs-test: $(STAMP) ## Type what the documents say and compare the output
	$(TEST) -m "documents and not long"

remaining-tests: $(STAMP)
	$(TEST) -m "(e2e or documents or postgres and not smoke) and not long"

long: $(STAMP) ## Run the tests that take minutes: long explorations and races, the benchmark's own test
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

schemas: $(STAMP) ## Generate docs/schemas from cli/mosaic_cli/output/models.py
	$(BIN)/python -m mosaic_cli.output.outputs docs/schemas

schemas-check: $(STAMP) ## Fail if docs/schemas is not what cli/mosaic_cli/output/models.py generates
	@rm -rf build/schemas && mkdir -p build/schemas
	@$(BIN)/python -m mosaic_cli.output.outputs build/schemas
	@diff -r -x README.md build/schemas docs/schemas && echo "docs/schemas is up to date"

bench: $(STAMP) ## Measure the fast paths against bare gRPC
	$(BIN)/python -m tests.bench

verify: $(STAMP) ## Check the protocol's model and its mutants (minutes; needs Java)
	$(BIN)/python -m tests.model

check: COVERAGE := 1
check: lint type imports proto-check schemas-check test remaining-tests ## All that CI runs: all tests but the long ones, with coverage
	$(BIN)/coverage report

clean: ## Remove the environment and everything built
	rm -rf $(VENV) build *.egg-info .coverage .coverage.* .mypy_cache .ruff_cache .hypothesis
