# `make run` and `make test` need only make and Python 3.12; everything else goes into .venv.

API_PORT ?= 3000
AWS_PORT ?= 4566
ENV ?= default
export API_PORT AWS_PORT

# pyenv follows .python-version; elsewhere the interpreter carries its version in its name.
PYTHON ?= $(shell for python in python3 python3.12; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin

# As many test processes as cores; the end-to-end tests run alone, because their stack needs every core.
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
SUITE := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
ORDINARY := -m "not exhaustive"
# Only `make test` measures it: it costs half as much time again.
COVERAGE :=
test: COVERAGE := --cov --cov-report=term-missing:skip-covered --cov-fail-under=100

.PHONY: help run demo redrive mark-dispatched personal-data test test-exhaustive unit workflow e2e bench check format-check lint types template build deploy format lock clean

help:  ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 17

run: .venv/ready  ## Run the stack here until Ctrl-C; STATE=folder keeps its state, PARAMETERS="Name=value …" sets the template's
	@$(BIN)/python -m local run $(if $(STATE),--state $(STATE)) $(if $(PARAMETERS),--parameters $(PARAMETERS))

demo: .venv/ready  ## Send every file of events/ to the running stack
	@$(BIN)/python -m local demo

redrive: .venv/ready  ## Redrive failed deliveries; ARGS="--local --since …", ARGS=--help lists the options
	@$(BIN)/python -m redrive $(ARGS)

mark-dispatched: .venv/ready  ## Mark payments that another system has dispatched; ARGS=--help lists the options
	@$(BIN)/python -m mark_dispatched $(ARGS)

personal-data: .venv/ready  ## Export or erase what is stored of an order or a user; ARGS=--help lists the options
	@$(BIN)/python -m personal_data $(ARGS)

test: check unit workflow e2e  ## All checks and all tests; the fast ones must cover functions/ completely

test-exhaustive: .venv/ready  ## The long products of inputs and faults that `make test` samples
	@$(SUITE) -m exhaustive tests

unit: .venv/ready  ## The fast tests: rules, tasks, local gateway, template and pages
	@$(SUITE) $(ORDINARY) $(COVERAGE) tests/unit tests/template

workflow: .venv/ready  ## The state machines with the real handlers, in-process
	@$(SUITE) $(ORDINARY) tests/workflow

e2e: .venv/ready  ## HTTP against the local stack, with IAM enforced
	@$(BIN)/python -m pytest $(ORDINARY) tests/e2e

bench: .venv/ready  ## Compare with one Lambda that does everything: docs/benchmarks.md; ARGS="cold warm log load bill soak"
	@PYTHONPATH=functions $(BIN)/python -m bench $(ARGS)

check: format-check lint types template  ## Format, lint, types, template

format-check: .venv/ready
	@$(BIN)/ruff format --check .

lint: .venv/ready
	@$(BIN)/ruff check .

types: .venv/ready
	@$(BIN)/mypy

template: .venv/ready
	@PATH="$(CURDIR)/$(BIN):$$PATH" SAM_CLI_TELEMETRY=0 sam validate --lint

build: .venv/ready  ## Build what `make deploy` deploys
	@$(BIN)/python -m package

deploy: build  ## Build and deploy to AWS according to samconfig.toml; ENV=prod for production
	@PATH="$(CURDIR)/$(BIN):$$PATH" sam deploy --config-env $(ENV)

format: .venv/ready  ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: .venv/ready  ## Pin requirements-dev.in again (installs uv)
	@$(BIN)/pip install --quiet uv
	@$(BIN)/uv pip compile requirements-dev.in --quiet --upgrade --python-version 3.12 \
		--no-emit-index-url --no-header --no-annotate --output-file requirements-dev.txt

clean:  ## Remove everything that make created
	rm -rf .venv .aws-sam .local .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache

.venv/ready: requirements-dev.txt functions/requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.12 is missing: install it (pyenv install 3.12, or your system's python3.12 package), or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "Making .venv (about a minute, once)"
	@$(PYTHON) -m venv --clear .venv || { echo "Python's venv module is missing: install it (python3.12-venv on Debian and Ubuntu)" >&2; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
