# The way in: `make demo`. Everything else is `.venv/bin/kp --help`.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip --quiet --disable-pip-version-check install
INSTALLED := $(VENV)/.installed

AUDIT := .venv-audit
LOCK := $(AUDIT)/bin/uv --quiet --native-tls pip compile --universal --python-version 3.11 \
	--generate-hashes --no-annotate
CHECK_BOM := from cyclonedx.schema import SchemaVersion; \
	from cyclonedx.validation.json import JsonStrictValidator; \
	error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open("bom.cdx.json").read()); \
	raise SystemExit(f"bom.cdx.json: {error}" if error else 0)

.PHONY: help setup packages test-packages demo up down test test-stacks faults bench docs \
	screenshots check audit update

help:
	@echo 'make demo    set up, start everything, trace 200 requests until they are searchable'
	@echo 'make up      set up and start all services'
	@echo 'make down    stop all services; data stay in .kp (kp down --purge removes them)'
	@echo 'make test    unit, integration and browser tests, on one shared stack'
	@echo 'make test-stacks  tests of a cluster, of TLS, PostgreSQL, upgrades and index swaps'
	@echo 'make faults  the fault matrix on a stack of its own; ROWS= TRIALS= EVENTS= SEED='
	@echo 'make bench   the figures of docs/performance.md; BENCH= EVENTS= ROUNDS='
	@echo 'make docs    docs/reference and .env.example, from the code'
	@echo 'make screenshots  the pictures of docs/screenshots'
	@echo 'make check   ruff, mypy, Dagster definitions'
	@echo 'make audit   bill of materials (bom.cdx.json), known vulnerabilities of the packages'
	@echo 'make update  the newest packages that pyproject.toml allows, and all tests with them'
	@echo 'make setup   system packages and .venv only'

setup: $(INSTALLED)

packages:
	@PYTHON=$(PYTHON) sh kp_platform/local/packages.sh

test-packages:
	@PYTHON=$(PYTHON) sh kp_platform/local/packages.sh test

$(INSTALLED): requirements-dev.txt pyproject.toml | packages
	@echo 'installing Python packages into $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes --no-deps -r requirements-dev.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

demo: up
	@$(VENV)/bin/kp demo

up: setup
	@$(VENV)/bin/kp up

down:
	@if [ -x $(VENV)/bin/kp ]; then $(VENV)/bin/kp down; else echo 'nothing was set up'; fi

test: setup | test-packages
	$(VENV)/bin/python -m pytest

test-stacks: setup | test-packages
	$(VENV)/bin/python -m pytest kp_platform_tests/stacks

faults: setup
	$(VENV)/bin/python -m kp_platform_tests.fault_injection --rows '$(ROWS)' $(if $(TRIALS),--trials $(TRIALS)) \
		$(if $(EVENTS),--events $(EVENTS)) $(if $(SEED),--seed $(SEED))

bench: setup
	$(VENV)/bin/python -m kp_platform_tests.benchmarks --bench '$(BENCH)' \
		$(if $(EVENTS),--events $(EVENTS)) $(if $(ROUNDS),--rounds $(ROUNDS))

docs: setup
	$(VENV)/bin/python -m kp_platform_tests.tools.reference_docs

screenshots: setup | test-packages
	$(VENV)/bin/python -m kp_platform_tests.tools.screenshots

check: setup
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/python -W 'ignore:Function' -m dagster definitions validate --log-level warning

$(AUDIT)/.installed: requirements-audit.txt | packages
	@echo 'installing the tools of the audit into $(AUDIT)'
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/pip --quiet --disable-pip-version-check install --require-hashes --no-deps -r $<
	@touch $@

audit: setup $(AUDIT)/.installed
	@$(VENV)/bin/python -m kp_platform_tests.tools.bom > bom.cdx.json
	@$(AUDIT)/bin/python -c '$(CHECK_BOM)'
	@echo 'bom.cdx.json: valid CycloneDX 1.6'
	@$(AUDIT)/bin/pip-audit --strict --disable-pip --progress-spinner off \
		-r requirements.txt -r requirements-dev.txt

update: $(AUDIT)/.installed
	@$(LOCK) --upgrade pyproject.toml -o requirements.txt
	@$(LOCK) --upgrade pyproject.toml --group dev -c requirements.txt -o requirements-dev.txt
	@$(LOCK) --upgrade --group audit -o requirements-audit.txt
	@git --no-pager diff --stat -- 'requirements*.txt'
	@$(MAKE) --no-print-directory check test test-stacks
