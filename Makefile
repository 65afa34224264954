# `make run` and `make test` need nothing but make and Python 3.12; everything else goes into .venv.

API_PORT ?= 3000
AWS_PORT ?= 4566
ENV ?= default
export API_PORT AWS_PORT

# pyenv follows .python-version; elsewhere the interpreter carries its version in its name.
PYTHON ?= $(shell for python in python3 python3.12; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin

.PHONY: help run demo test unit workflow e2e check deploy format lock clean

help:  ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 10

run: .venv/ready  ## Run it all here until Ctrl-C; STATE=folder keeps its state, PARAMETERS="Name=value …" are the template's
	@$(BIN)/python -m local run $(if $(STATE),--state $(STATE)) $(if $(PARAMETERS),--parameters $(PARAMETERS))

demo: .venv/ready  ## Play every file of events/ against the running stack
	@$(BIN)/python -m local demo

test: check  ## All checks and all tests
	@$(BIN)/coverage run -m pytest
	@$(BIN)/coverage report

unit: .venv/ready  ## The fast tests alone
	@$(BIN)/python -m pytest tests/unit tests/template

workflow: .venv/ready  ## The tests of the state machine alone
	@$(BIN)/python -m pytest tests/workflow

e2e: .venv/ready  ## The tests against the local stack alone
	@$(BIN)/python -m pytest tests/e2e

check: .venv/ready  ## Format, lint, types, template
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@PATH="$(CURDIR)/$(BIN):$$PATH" SAM_CLI_TELEMETRY=0 sam validate --lint

deploy: .venv/ready  ## Build and deploy to AWS as samconfig.toml says; ENV=prod for production
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh -c 'sam build && sam deploy --config-env $(ENV)'

format: .venv/ready  ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: .venv/ready  ## Pin requirements-dev.in anew (installs uv)
	@$(BIN)/pip install --quiet uv
	@$(BIN)/uv pip compile requirements-dev.in --quiet --upgrade --python-version 3.12 \
		--no-emit-index-url --no-header --no-annotate --output-file requirements-dev.txt

clean:  ## Remove what make made
	rm -rf .venv .aws-sam .local .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache

.venv/ready: requirements-dev.txt functions/requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.12 is missing: install it (pyenv install 3.12, or your system's python3.12 package), or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "Making .venv (about a minute, once)"
	@$(PYTHON) -m venv --clear .venv || { echo "Python's venv module is missing: install it (python3.12-venv on Debian and Ubuntu)" >&2; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
