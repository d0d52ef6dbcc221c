# `make` lists the targets. They need Python 3.11 or newer (with venv) and make, nothing else.

BIN     := .venv/bin
READY   := .venv/requirements-dev.installed
PYTHON  ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
             $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
             --python-version 3.11 pyproject.toml
TESTS   ?=

.DEFAULT_GOAL := help
.PHONY: help run test test-slow check format bench lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

run: $(READY)  ## serve on http://127.0.0.1:8000, on an embedded PostgreSQL unless DATABASE_URL is set
	@exec $(BIN)/python -m app dev

test: $(READY)  ## run the suite against real PostgreSQL servers (TESTS=tests/pool for a part of it)
	@$(BIN)/coverage run -m pytest -m 'not slow' $(TESTS)
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report

test-slow: $(READY)  ## run what takes longer, and the event loop that the service does not run on
	@$(BIN)/python -m pytest -m slow $(TESTS) || [ $$? = 5 ]  # 5: there is none
	@$(BIN)/python -m pytest -m 'not slow' --loop asyncio tests/pool tests/database

check: $(READY)  ## formatting, lint, strict types, imports, dependencies, duplicates, generated files
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/deptry app migrations
	$(BIN)/pylint app migrations tests bench
	$(BIN)/python -m app settings | diff .env.example - || { echo 'stale: make .env.example'; exit 1; }
	@set -e; fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; cp requirements*.lock "$$fresh"; \
	$(COMPILE) -o "$$fresh/requirements.lock"; \
	$(COMPILE) --group dev --group bench -o "$$fresh/requirements-dev.lock"; \
	for lock in requirements.lock requirements-dev.lock; do \
	  diff -q "$$lock" "$$fresh/$$lock" || { echo 'stale: make lock'; exit 1; }; done

format: $(READY)  ## let ruff format the code and fix what it can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(READY)  ## answer the questions of bench/: a table and a plot each
	@set -e; for question in bench/*/__main__.py; do \
	  $(BIN)/python -m "bench.$$(basename "$$(dirname "$$question")")"; done

lock: $(READY)  ## bring the lock files up to date with pyproject.toml (UPGRADE=1: newest versions)
	$(COMPILE) $(if $(UPGRADE),--upgrade) -o requirements.lock
	$(COMPILE) $(if $(UPGRADE),--upgrade) --group dev --group bench -o requirements-dev.lock

clean:  ## remove the environment, the embedded server's data and all caches
	rm -rf .venv .data .coverage .hypothesis .pytest_cache .mypy_cache .ruff_cache

.env.example: app/settings.py $(READY)
	$(BIN)/python -m app settings > $@

# uv when there is one, else pip: both install exactly what the lock names and hashes.
$(READY): requirements-dev.lock
	@$(if $(PYTHON),,echo 'Lifeguard needs Python 3.11 or newer: make PYTHON=/path/to/python3' >&2; exit 1)
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(PYTHON) has no venv module (Debian: apt install python3-venv)' >&2; exit 1; }
	@echo 'Installing requirements-dev.lock into .venv (once for each state of the lock)'
	@test -x $(BIN)/python || $(PYTHON) -m venv --clear .venv
	@uv=$$(command -v uv || command -v $(BIN)/uv); if [ -n "$$uv" ]; then \
	  "$$uv" pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements-dev.lock; else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock; fi
	@touch $@
