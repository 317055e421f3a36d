# One entry for everything: `make help`. A fresh machine needs Python 3.11+, Java 17+, Maven and make, nothing else.
#
# What is missing is fetched once, and said: uv (with pip, into .tools), the Python packages of uv.lock (into .venv) and
# the jars of Apache Kafka (with Maven, into the user's cache).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

UV_VERSION := 0.13.8
UV := $(or $(shell command -v uv),.tools/uv/bin/uv)
PYTHON := $(or $(shell command -v python3.11),$(shell command -v python3),python3)
RUN := $(UV) run --no-sync
SYNCED := .venv/.synced
PYTEST_OPTIONS ?=
# Files side by side in two processes, each with a broker and a store of its own: most of a test is waiting for servers.
TEST_PROCESSES ?= 2
SIDE_BY_SIDE := -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: help
help: ## Say what there is to make.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: jars ## Run the whole pipeline once on real sample data: broker, store, worker, reports, audit.
	$(RUN) tally demo

.PHONY: up
up: jars ## Run broker, store and a worker together until interrupted.
	$(RUN) tally up

.PHONY: test
test: jars ## Run every test but the soak, against a real Kafka and a real ClickHouse engine.
	$(RUN) pytest -m "not soak" $(SIDE_BY_SIDE) $(PYTEST_OPTIONS)

.PHONY: test-fast
test-fast: $(SYNCED) ## Run the tests that need no server; they end in seconds.
	$(RUN) pytest -m "not servers and not chaos and not soak" $(SIDE_BY_SIDE) $(PYTEST_OPTIONS)

.PHONY: check
check: $(SYNCED) ## Look at the code without running it: format, lint, types, layers, spelling, generated files.
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) lint-imports
	$(RUN) codespell
	$(RUN) python -m schemas.generate --check
	$(RUN) python -m tally.reference --check
	$(RUN) check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

.PHONY: bench
bench: jars ## Measure events per second and CPU per event on this machine.
	$(RUN) python -m bench

.PHONY: soak
soak: jars ## Kill workers, store and broker for a long time, and prove the books after each kill.
	$(RUN) pytest -m soak --timeout 0 $(PYTEST_OPTIONS)

.PHONY: fmt
fmt: $(SYNCED) ## Format the code and mend what the linter can mend.
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

.PHONY: clean
clean: ## Remove what was built here; data (tally-data) and the jars in the user's cache stay.
	rm -rf .venv .tools .tally dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: jars
jars: $(SYNCED)
	@$(RUN) python -c "import sys; from tally.broker import prepare; sys.exit(prepare())"

$(SYNCED): pyproject.toml uv.lock | uv
	@echo "Installing the Python packages of uv.lock into .venv."
	@UV_COMPILE_BYTECODE=1 $(UV) sync --locked --quiet
	@touch $@

.PHONY: uv
uv:
	@if ! command -v "$(UV)" > /dev/null; then \
	  echo "uv is not on PATH: installing uv $(UV_VERSION) with pip into .tools/uv."; \
	  if ! $(PYTHON) -m pip --version > /dev/null 2>&1; then \
	    echo "$(PYTHON) has no pip: install pip (Debian: apt install python3-pip), or uv itself." >&2; exit 2; \
	  fi; \
	  PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip install --quiet --disable-pip-version-check --target .tools/uv "uv==$(UV_VERSION)"; \
	fi
