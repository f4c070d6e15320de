# Bare `make` prints what there is. Needs Python 3.11 or newer and nothing else; uses uv where it is on the PATH.

PYTHON ?= python3
PORT = 3000
# One more than cores: some tests wait for a real Dagster most of the time.
WORKERS = 3

BIN := .venv/bin
INSTALLED := .venv/.installed
BENCH_INSTALLED := .venv-bench/.installed
SERVERS_INSTALLED := .venv-servers/.installed
CLIENTS_INSTALLED := .venv-clients/.installed

# Kept between starts, so that runs, backfills and their logs are still there the next day. Delete the folder to forget them.
DAGSTER_HOME_DIR := $(CURDIR)/.dagster_home

# A user's own instance must not be seen by the tests; targets that need one name it.
unexport DAGSTER_HOME
# As if .venv were activated: dg warns at every start otherwise.
export VIRTUAL_ENV := $(CURDIR)/.venv
# uv trusts what the system trusts, as pip does: proxies of companies sign with certificates of their own.
export UV_SYSTEM_CERTS ?= 1
# Or pyright asks the package index for a newer self at every start.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-s3 test soak bench ui check lint fmt constraints clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) .dagster_home/dagster.yaml ## Deliver a sample shop's hours into .demo/ (`make ui` shows the runs)
	DAGSTER_HOME="$(DAGSTER_HOME_DIR)" $(BIN)/python examples/shop/demo.py

demo-s3: $(INSTALLED) $(SERVERS_INSTALLED) ## Deliver the hours to an S3 server whose bucket is broken and mended on the way
	PYTHONPATH="$(CURDIR)" $(BIN)/python examples/shop_s3/demo.py

test: check $(SERVERS_INSTALLED) $(CLIENTS_INSTALLED) ## Run the checks and all tests but the long ones
	$(BIN)/pytest -q --doctest-modules amp_pipeline/core
	$(BIN)/pytest -n $(WORKERS)

soak: $(INSTALLED) $(SERVERS_INSTALLED) $(CLIENTS_INSTALLED) ## Run the long tests
	$(BIN)/pytest -m soak
	$(BIN)/pytest -n $(WORKERS) --over moto amp_pipeline_tests/laws
	$(BIN)/pytest -n $(WORKERS) --over ministack amp_pipeline_tests/laws

# Needs Java 17 for PySpark, and 10 GB of disk for a week of key indexes. For one work: make bench BENCH='--works a'
bench: $(BENCH_INSTALLED) $(SERVERS_INSTALLED) ## Measure beside DuckDB, pandas and PySpark (an hour; BENCH='--works a' for one work)
	.venv-bench/bin/python benchmarks/run.py $(BENCH)

# Stop it with Ctrl-C. It warns that the dagster.yaml of this folder is not used; it is, by the link in DAGSTER_HOME.
ui: $(INSTALLED) .dagster_home/dagster.yaml ## Start Dagster at http://127.0.0.1:3000 (or PORT=…)
	@$(BIN)/python -c 'import socket; socket.create_server(("127.0.0.1", $(PORT))).close()' 2>/dev/null || { \
		echo "Port $(PORT) is taken. If another 'make ui' has it, use that one, or stop it: two of them would get in each other's way." >&2; \
		echo "If another program has it: make ui PORT=$$(( $(PORT) + 1 ))" >&2; exit 1; }
	DAGSTER_HOME="$(DAGSTER_HOME_DIR)" $(BIN)/dg dev --host 127.0.0.1 --port $(PORT)

# dg gets a DAGSTER_HOME only for its telemetry switch: without one it writes an id into the user's home folder.
check: lint .dagster_home/dagster.yaml ## Run lint, pyright, and load the definitions
	$(BIN)/pyright
	DAGSTER_HOME="$(DAGSTER_HOME_DIR)" $(BIN)/dg check defs

lint: $(INSTALLED) ## Check format, style, spelling and the direction of imports
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/codespell
	$(BIN)/lint-imports --no-logo

fmt: $(INSTALLED) ## Format, and fix what ruff can fix
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

constraints: ## Pin the newest versions that fit pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --extra dev --upgrade \
		--no-header --no-annotate --output-file constraints.txt pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --upgrade \
		--no-header --no-annotate --output-file servers.txt servers.in
	uv pip compile --quiet --universal --python-version 3.11 --upgrade \
		--no-header --no-annotate --output-file clients.txt clients.in

clean: ## Remove the virtual environment, the demo's data and caches (not .dagster_home)
	rm -rf .venv .venv-bench .venv-servers .venv-clients .bench .demo .demo-s3 .hypothesis .import_linter_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.dagster_home/dagster.yaml:
	@mkdir -p .dagster_home
	@ln -sf ../dagster.yaml $@

# Peers have an environment of their own: they pin what we would not.
$(BENCH_INSTALLED): pyproject.toml constraints.txt
	@rm -f $@
	@set -e; \
	if command -v uv >/dev/null; then \
		uv venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv-bench; \
		uv pip install --quiet --compile-bytecode --python .venv-bench/bin/python -c constraints.txt -e '.[bench]'; \
	else \
		$(PYTHON) -m venv --clear .venv-bench; \
		.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'; \
	fi
	@touch $@

# S3 servers and pullers of the Export API to test against are other people's programs: ministack and Airbyte's connector
# pin older packages than ours.
$(SERVERS_INSTALLED) $(CLIENTS_INSTALLED): .venv-%/.installed: %.txt
	@rm -f $@
	@set -e; \
	if command -v uv >/dev/null; then \
		uv venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv-$*; \
		uv pip install --quiet --compile-bytecode --python .venv-$*/bin/python -r $<; \
	else \
		$(PYTHON) -m venv --clear .venv-$*; \
		.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<; \
	fi
	@touch $@

# The stamp is written last and taken away first, so an install that was killed starts afresh the next time.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "amp_pipeline needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
		echo "Name another one: make PYTHON=python3.12 …" >&2; \
		exit 1; }
	@set -e; \
	update=no; \
	if [ -f $@ ] && $(BIN)/python -c ''; then update=yes; fi; \
	rm -f $@; \
	if command -v uv >/dev/null; then \
		echo "Installing into .venv with uv"; \
		[ $$update = yes ] || uv venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv; \
		uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else \
		echo "Installing into .venv with pip; this takes a minute or two"; \
		[ $$update = yes ] || $(PYTHON) -m venv --clear .venv; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	fi
	@touch $@
