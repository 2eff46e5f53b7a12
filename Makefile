# Every target first installs what it needs into $(VENV). No target changes files outside the checkout.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The runtime dependencies without the developer's tools; `make demo` needs no more.
RUN_STAMP := $(VENV)/.installed-to-run
PROTOS := $(wildcard protos/federation/v1/*.proto)
PLUGINS := --plugin=$(BIN)/protoc-gen-mypy --plugin=$(BIN)/protoc-gen-mypy_grpc
PROTOC = $(BIN)/python -m grpc_tools.protoc -I protos $(PLUGINS) --python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1)
# `buf breaking` compares the protos with this image, which each release replaces: `make proto-baseline`.
BASELINE := protos/baseline.binpb
# With COVERAGE=1 the tests record coverage, and `make check` reports it.
TEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(if $(COVERAGE),--cov --cov-append --cov-report= --cov-fail-under=0)
# The tests start many interpreters; without bytecode files each would compile the source again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test e2e docs-test remaining-tests long lint type imports proto proto-check proto-baseline schemas schemas-check bench verify check clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP) $(RUN_STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Python 3.11 or later is needed, this is {v.major}.{v.minor}; try: make PYTHON=python3.11") if v < (3, 11) else None'
	@echo "installing into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.$(if $(filter $(STAMP),$@),[dev])'
	@touch $@ $(RUN_STAMP)

setup: $(STAMP) ## Create the virtual environment and install everything (other targets do it when needed)

demo: $(RUN_STAMP) ## Run two gateways and read the data of one from the other over mutual TLS
	@$(BIN)/mosaic demo

test: $(STAMP) ## Run the quick tests: unit and contract tests, two gateways in one process, short explorations
	@$(if $(COVERAGE),rm -f .coverage .coverage.*)
	$(TEST) -m "not (e2e or documents or long) and (smoke or not postgres)"

e2e: $(STAMP) ## Run the tests that start gateways and commands as processes
	$(TEST) -m "e2e and not long"

docs-test: $(STAMP) ## Type the commands of the documents and compare their output
	$(TEST) -m "documents and not long"

# What `make test` leaves out, for `make check`.
remaining-tests: $(STAMP)
	$(TEST) -m "(e2e or documents or postgres and not smoke) and not long"

long: $(STAMP) ## Run the tests that take minutes: long explorations, races over sockets, the test of the benchmark
	$(TEST) -m long

lint: $(STAMP) ## Check style, formatting and protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint
	$(BIN)/buf format -d --exit-code
	$(BIN)/buf breaking --against $(BASELINE)

type: $(STAMP) ## Check types with mypy
	$(BIN)/mypy

imports: $(STAMP) ## Check that imports follow the layers (import-linter)
	$(BIN)/lint-imports

proto: $(STAMP) ## Generate federation/v1 from protos/
	$(call PROTOC,.) $(PROTOS)

proto-check: $(STAMP) ## Fail if federation/v1 differs from what protos/ generates
	@rm -rf build/proto && mkdir -p build/proto
	@$(call PROTOC,build/proto) $(PROTOS)
	@diff -r -x __pycache__ -x __init__.py build/proto/federation/v1 federation/v1 && echo "federation/v1 is up to date"

proto-baseline: $(STAMP) ## At a release: record the protos for later compatibility checks
	$(BIN)/buf build -o $(BASELINE)

schemas: $(STAMP) ## Generate docs/schemas from cli/mosaic_cli/output
	$(BIN)/python -m mosaic_cli.output.outputs docs/schemas

schemas-check: $(STAMP) ## Fail if docs/schemas differs from what cli/mosaic_cli/output generates
	@rm -rf build/schemas && mkdir -p build/schemas
	@$(BIN)/python -m mosaic_cli.output.outputs build/schemas
	@diff -r -x README.md build/schemas docs/schemas && echo "docs/schemas is up to date"

bench: $(STAMP) ## Compare the client chain with bare gRPC (docs/BENCHMARKS.md)
	$(BIN)/python -m tests.bench

verify: $(STAMP) ## Check the TLA+ model of the protocol and its mutants (minutes; needs Java)
	$(BIN)/python -m tests.model

check: COVERAGE := 1
check: lint type imports proto-check schemas-check test remaining-tests ## Run all that CI runs: all checks and all tests but the long ones, with coverage
	$(BIN)/coverage report

clean: ## Remove the environment and all build products
	rm -rf $(VENV) build *.egg-info .coverage .coverage.* .mypy_cache .ruff_cache .hypothesis
