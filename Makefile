# `make` lists the targets. They need Python 3.11 or newer (with venv) and make, nothing else.

BIN     := .venv/bin
READY   := .venv/requirements-dev.installed
TOOLS   := .venv-deploy/requirements.installed
SPHINX  := .venv-docs/requirements.installed
PYTHON  ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
             $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
# The engine's source, where it is here: without packages/ pyproject.toml pins the version of a wheel in wheels/.
PACKAGE := $(wildcard packages/lifeguard)
SOURCES := $(if $(PACKAGE),$(PACKAGE)/src $(PACKAGE)/tests) app migrations tests conftest.py $(wildcard bench template) \
             deploy docs
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
             $(if $(PACKAGE),--no-emit-package lifeguard-pg) --python-version 3.11
# A worker for each core, each with servers of its own. No more than four: several tests are about time.
PYTEST  := -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal
TESTS   ?=

SCRIPTS := $(addprefix deploy/,release.bash replicas.bash rolling-update rollback set scale rotate down reload-haproxy \
             secrets/generate) $(wildcard deploy/replica/start deploy/postgres/initdb.d/*.sh)
DASHBOARD := deploy/grafana/dashboards/service.json
# Of these alone the operator's are made: HAProxy, which haproxy.yml beside them watches, is in compose only.
RULES := deploy/prometheus/rules/service.yml
OPERATOR_RULES := $(wildcard deploy/kubernetes/components/monitoring/prometheus-rule.yaml)
# The same rules for the Prometheus operator: below a head of its own, two columns further in.
AS_OPERATOR_RULES = printf '%s\n' '\# Made from $(RULES) by `make generated`.' \
  'apiVersion: monitoring.coreos.com/v1' 'kind: PrometheusRule' 'metadata:' '  name: lifeguard' 'spec:' && \
  sed 's/^./  &/' $(RULES)

ifneq ($(wildcard wheels),)
export UV_FIND_LINKS := wheels
export PIP_FIND_LINKS := wheels
endif

# The suite starts Python a hundred times: without bytecode each would compile the service again.
unexport PYTHONDONTWRITEBYTECODE
# What is made replaces its predecessor when it is whole.
WHOLE = > $@.new && mv $@.new $@ || { rm -f $@.new; exit 1; }

# What somebody wrote for a variable, as one word of a shell: make expands nothing in it, and neither does the shell.
quoted = '$(subst ','\'',$(value $(1)))'
# For the environment of commands it would expand them.
unexport NAME SINGULAR TO
# Told before anything is installed for it.
needs = $(if $(filter $(1),$(MAKECMDGOALS)),$(foreach name,$(2),$(if $(strip $(value $(name))),,$(error \
  make $(1) needs $(name): $(3)))))

.DEFAULT_GOAL := help
.PHONY: help run doctor psql shell test tests test-engine coverage test-slow check check-deploy audit outdated image feature update docs format generated lock clean

# What only the starter has, from which services are made: not there in one that was.
-include template/starter.mk

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

run: $(READY)  ## serve on http://127.0.0.1:8000 and reload, on an embedded PostgreSQL unless DATABASE_URL is set
	@exec $(BIN)/python -m app dev

doctor: $(READY)  ## look at the settings and the databases as the service would
	@$(BIN)/python -m app doctor

psql: $(READY)  ## open psql on the database of `make run`, or of DATABASE_URL
	@$(BIN)/python -m app psql

shell: $(READY)  ## open a Python prompt with `database`, in which `await` works
	@$(BIN)/python -m app shell

test: $(READY)  ## run the suite on real PostgreSQL servers (TESTS=tests/deploy for a part of it)
	@$(BIN)/python $(PYTEST) -m 'not slow and not deploy' $(TESTS)

tests: test  # there is a folder of this name: `make` would find it there, do nothing, and look as if all had passed

coverage: $(READY)  ## the same, and which lines of app/ and the engine no test has run; takes half as long again
	@$(BIN)/coverage run $(PYTEST) -m 'not slow and not deploy' $(TESTS)
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report

test-engine: $(READY)  ## run the engine's own tests, which `make test` of a service leaves out
	$(if $(PACKAGE),@$(BIN)/python $(PYTEST) -m 'not slow and not deploy' $(PACKAGE)/tests,\
	  @echo 'they are where its source is: in the starter')

test-slow: $(READY)  ## run what takes longer, the other event loop, and requests' protections one by one
	@$(BIN)/python $(PYTEST) -m 'slow and not deploy' $(TESTS) || [ $$? = 5 ]  # 5: there is none
	$(if $(PACKAGE),@$(BIN)/python $(PYTEST) -m 'not slow' --loop asyncio $(PACKAGE)/tests/pool $(PACKAGE)/tests/database)
	$(if $(PACKAGE),@$(BIN)/python $(PYTEST) -m 'not slow' --protections-apart $(PACKAGE)/tests/web)

check: $(READY)  ## formatting, lint, strict types, imports, dependencies, duplicates, revisions, generated files
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/deptry app migrations
	$(if $(PACKAGE),$(BIN)/deptry $(PACKAGE)/src --config $(PACKAGE)/pyproject.toml)
	$(BIN)/pylint $(SOURCES)
	$(BIN)/python -m migrations.lint
	@stale() { echo 'stale: make generated'; exit 1; }; \
	$(BIN)/python -m app settings | diff .env.example - || stale; \
	$(BIN)/python -m deploy.grafana | diff $(DASHBOARD) - || stale; \
	$(BIN)/python -m docs.cookbook --check || stale; \
	$(BIN)/python -m deploy.profiles --check || stale; \
	$(BIN)/python -m docs.reference --check || stale; \
	$(if $(wildcard bench),$(BIN)/python -m bench.readme --check || stale;) \
	$(if $(OPERATOR_RULES),{ $(AS_OPERATOR_RULES); } | diff $(OPERATOR_RULES) - || stale)
	@set -e; fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; mkdir "$$fresh/deploy" "$$fresh/docs"; \
	cp requirements*.lock "$$fresh"; cp deploy/*.lock "$$fresh/deploy"; cp docs/*.lock "$$fresh/docs"; \
	$(COMPILE) pyproject.toml -o "$$fresh/requirements.lock"; \
	$(COMPILE) pyproject.toml --group dev $(if $(wildcard bench),--group bench) -o "$$fresh/requirements-dev.lock"; \
	$(COMPILE) --group deploy -o "$$fresh/deploy/requirements.lock"; \
	$(COMPILE) --group docs -o "$$fresh/docs/requirements.lock"; \
	for lock in requirements.lock requirements-dev.lock deploy/requirements.lock docs/requirements.lock; do \
	  diff -q "$$lock" "$$fresh/$$lock" || { echo 'stale: make lock'; exit 1; }; done

check-deploy: $(READY) $(TOOLS)  ## what is deployed: rendered, validated, hardened, and its sums proved
	@.venv-deploy/bin/hadolint Dockerfile
	@.venv-deploy/bin/shellcheck --external-sources .ci/* $(SCRIPTS)
	@.venv-deploy/bin/zizmor --quiet --offline --persona pedantic .github
	$(if $(wildcard deploy/kubernetes),@$(BIN)/python -m deploy.kubernetes)
	@for program in prometheus:promtool haproxy:haproxy $(if $(wildcard deploy/pgbouncer),pgbouncer:pgbouncer); do \
	  PATH="$$PATH:/usr/sbin" command -v $${program#*:} >/dev/null || { \
	  echo "needs $${program#*:} (Debian: apt install $${program%:*})" >&2; exit 1; }; done
	promtool check config deploy/prometheus/prometheus.yml
	promtool test rules deploy/prometheus/tests/*.yml
	$(BIN)/python -m pytest -m deploy $(TESTS)

audit: $(READY)  ## what is known against the locked versions, and a bill of materials (asks PyPI)
	$(BIN)/uvx --from cyclonedx-bom==7.5.0 cyclonedx-py requirements requirements.lock \
	  --pyproject pyproject.toml --output-reproducible --output-file sbom.cdx.json
	$(BIN)/uvx pip-audit==2.10.1 --strict --require-hashes --disable-pip --requirement requirements.lock

outdated: $(READY)  ## which images in compose, Dockerfile and manifests have newer versions (asks their registries)
	@$(BIN)/python -m deploy.outdated

image:  ## build the service's image, lifeguard:dev
	DOCKER_BUILDKIT=1 docker build --tag lifeguard:dev \
	  --build-arg REVISION="$$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" .

$(call needs,feature,NAME,make feature NAME=invoices)
feature: $(READY)  ## add a feature: make feature NAME=invoices (SINGULAR=... where the plural is irregular)
	@$(BIN)/python -m lifeguard.development.feature $(if $(value SINGULAR),--singular $(call quoted,SINGULAR)) -- $(call quoted,NAME)
	@$(if $(wildcard docs/reference/service.md),$(BIN)/python -m docs.reference)

update: $(READY)  ## take what is new in the starter: docs/updating.md (TO=v1.2.0: that version)
	@test -e .copier-answers.yml || { echo 'This is the starter itself: git pull' >&2; exit 1; }
	@$(BIN)/copier update --trust --defaults $(if $(value TO),--vcs-ref $(call quoted,TO))

docs: $(SPHINX)  ## build the documentation as a site with a search, into dist/docs; every link in it is checked
	@rm -rf dist/docs
	@$(BIN)/python -m docs.reference
	@.venv-docs/bin/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky -j auto -c docs . dist/docs
	@$(BIN)/python -m docs.links dist/docs
	@echo 'dist/docs/index.html'

format: $(READY)  ## let ruff format the code and fix what it can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock: $(READY)  ## bring the lock files up to date with pyproject.toml (UPGRADE=1: newest versions)
	$(COMPILE) $(if $(UPGRADE),--upgrade) pyproject.toml -o requirements.lock
	$(COMPILE) $(if $(UPGRADE),--upgrade) pyproject.toml --group dev $(if $(wildcard bench),--group bench) -o requirements-dev.lock
	$(COMPILE) $(if $(UPGRADE),--upgrade) --group deploy -o deploy/requirements.lock
	$(COMPILE) $(if $(UPGRADE),--upgrade) --group docs -o docs/requirements.lock

clean:  ## remove the environment, the embedded server's data and all caches
	rm -rf .venv .venv-deploy .venv-docs .data .coverage .hypothesis .pytest_cache .mypy_cache .ruff_cache dist sbom.cdx.json
	find . -name __pycache__ -prune -exec rm -rf {} +

generated: .env.example $(DASHBOARD) $(OPERATOR_RULES) $(READY)  ## write what is made from other files here
	$(BIN)/python -m docs.cookbook
	$(BIN)/python -m deploy.profiles
	$(BIN)/python -m docs.reference
	$(if $(wildcard bench),$(BIN)/python -m bench.readme)

.env.example: $(wildcard app/settings.py packages/lifeguard/src/lifeguard/settings/*.py) $(READY)
	$(BIN)/python -m app settings $(WHOLE)

$(DASHBOARD): $(wildcard deploy/grafana/*.py deploy/prometheus/rules/*.yml) $(READY)
	$(BIN)/python -m deploy.grafana $(WHOLE)

ifneq ($(OPERATOR_RULES),)
$(OPERATOR_RULES): $(RULES)
	{ $(AS_OPERATOR_RULES); } $(WHOLE)
endif

# uv installs, several times as fast as pip, which brings it, and installs all where there is no uv for the machine: both
# take exactly what the lock names and hashes. Then the engine from packages/; a service that pins its version in
# pyproject.toml instead has it from the lock. An environment that can install nothing (its making was interrupted, or its
# Python is gone) is made anew.
$(READY): requirements-dev.lock $(wildcard packages/lifeguard/pyproject.toml)
	@$(if $(PYTHON),,echo 'Lifeguard needs Python 3.11 or newer: make PYTHON=/path/to/python3' >&2; exit 1)
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(PYTHON) has no venv module (Debian: apt install python3-venv)' >&2; exit 1; }
	@echo 'Installing requirements-dev.lock into .venv (once for each state of the lock)'
	@$(BIN)/python -c '' 2>/dev/null && { $(BIN)/uv --version || $(BIN)/python -m pip --version; } >/dev/null 2>&1 || \
	  $(PYTHON) -m venv --clear .venv
	@test -n "$$(command -v uv || command -v $(BIN)/uv)" || { \
	  awk '/^uv==/ {uv = 1} uv && !/^(uv==| )/ {exit} uv' $< >.venv/uv.lock; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock || true; }
	@uv=$$(command -v uv || command -v $(BIN)/uv); if [ -n "$$uv" ]; then \
	  "$$uv" pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements-dev.lock; else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock; fi
	@$(if $(PACKAGE),$(BIN)/uv pip install --quiet --no-deps --python $(BIN)/python --editable $(PACKAGE))
	@touch $@

# Apart from .venv: checkov pins half of what the service uses to versions of its own.
$(TOOLS): deploy/requirements.lock | $(READY)
	@echo 'Installing deploy/requirements.lock into .venv-deploy (once for each state of the lock)'
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-deploy
	@$(BIN)/uv pip sync --quiet --require-hashes --python .venv-deploy/bin/python deploy/requirements.lock
	@touch $@

# Apart from .venv: who does not build the site needs none of it.
$(SPHINX): docs/requirements.lock | $(READY)
	@echo 'Installing docs/requirements.lock into .venv-docs (once for each state of the lock)'
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-docs
	@$(BIN)/uv pip sync --quiet --require-hashes --python .venv-docs/bin/python docs/requirements.lock
	@touch $@
