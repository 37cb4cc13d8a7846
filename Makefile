# The user's commands. `make demo` and `make test` are enough to try the project; the others are for daily work.
# Needs Python 3.11 or newer, git and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KILLS := 500
CYCLES := 5000
PIPELINE := cloudflare_audit_warehouse
# make UV= to use pip though uv is there.
UV := $(shell command -v uv)
# Compiled, as by pip: a service whose user may not write here would compile them at each start.
INSTALL := $(if $(UV),$(UV) pip install --compile-bytecode --python $(BIN)/python,$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on)
# Of the long tests, another part each day.
PARTS := 8
PART = $(shell expr $$(date +%s) / 86400 % $(PARTS) + 1)/$(PARTS)

.PHONY: help setup setup-dev demo run dashboard show wheel setup-dask test test-long test-engines soak bench bench-full check format lock clean

help: ## Shows this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready ## Makes .venv with everything that a run needs

setup-dev: $(VENV)/.ready-dev ## Makes .venv with what the tests need as well

demo: setup ## The main job on a simulated Cloudflare: half a minute, no account needed
	@$(BIN)/python pipelines/demo.py

run: setup ## The main job with your .env, until you stop it
	@$(BIN)/python pipelines/run.py

dashboard: $(VENV)/.ready-dashboard ## A page that shows your events, on this host alone; it only reads
	@$(BIN)/python -m dashboard

show: $(VENV)/.ready-dashboard ## dlt's own view of a pipeline: make show PIPELINE=cloudflare_audit_lake
	@$(BIN)/dlt pipeline $(PIPELINE) show

wheel: setup ## Builds dist/*.whl, which needs no checkout: docs/installing.md
	@rm -rf build
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

setup-dask: $(VENV)/.ready-dask ## Installs Dask for backfill and rehydrate with --scheduler, and their workers: docs/scale/dask.md

test: setup-dev ## Every test, on a real PostgreSQL and a real S3 server
	$(BIN)/python -m pytest

test-long: setup-dev ## A part of the long tests, another one each day: make test-long PART=3/8
	@echo "the long tests of part $(PART)"
	$(BIN)/python -m pytest --part $(PART)

test-engines: $(VENV)/.ready-engines ## Runs what docs/engines.md says of Spark, ClickHouse, Iceberg and others (2 GB; Spark needs Java)
	$(BIN)/python -m pytest tests/lake/test_lake_engines.py tests/lake/test_lake_registered.py

.PHONY: test-containers
test-containers: setup-dev ## Builds the images and runs the services: health, kill -9, rights, secrets; needs Docker with Compose
	TEST_CONTAINERS=1 $(BIN)/python -m pytest --numprocesses=0 tests/containers

soak: setup-dev ## Every test with the long ones, 500 kills on each kind of lake, 5,000 cycles; about two hours
	MODEL_EXAMPLES=100 $(BIN)/python -m pytest --long
	$(BIN)/python -m tests.faults.soak --lake folder --kills $(KILLS)
	$(BIN)/python -m tests.faults.soak --lake bucket --kills $(KILLS)
	$(BIN)/python -m tests.faults.endurance --cycles $(CYCLES)

bench: setup-dev ## Measures costs with small data; with TimescaleDB if TEST_TIMESCALE_DSN is set
	$(BIN)/python -m benchmarks.warehouse --rows 100000,500000
	$(BIN)/python -m benchmarks.history --rows 100000
	$(BIN)/python -m benchmarks.lake --objects 200
	$(BIN)/python -m benchmarks.years --days 30
	$(BIN)/python -m benchmarks.day_copies
	$(BIN)/python -m benchmarks.ingest --events 20000
	$(BIN)/python -m benchmarks.scale

bench-full: setup-dev ## The same with up to 10 million events, writes the tables into the docs; needs 60 GB and an hour
	$(BIN)/python -m benchmarks.warehouse --rows 1000000,5000000,10000000 --write
	$(BIN)/python -m benchmarks.history --rows 100000,10000000 --write
	$(BIN)/python -m benchmarks.lake --objects 2000 --write
	$(BIN)/python -m benchmarks.years --write
	$(BIN)/python -m benchmarks.day_copies --write
	$(BIN)/python -m benchmarks.ingest --events 100000,1000000 --write
	$(BIN)/python -m benchmarks.cluster --events 2000000 --write
	$(BIN)/python -m benchmarks.scale --write
	$(BIN)/python -m benchmarks.many_accounts --write

check: setup-dev ## Style, types, and which wing may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup-dev ## Formats the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## Resolves the packages' versions anew (needs uv)
	uv pip compile pyproject.toml --group build --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --upgrade -o locks/run.lock
	uv pip compile pyproject.toml --group build --group dev --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --upgrade -c locks/run.lock -o locks/dev.lock
	uv pip compile --group dashboard --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --upgrade -c locks/dev.lock -o locks/dashboard.lock
	uv pip compile --group dask --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --upgrade -c locks/dev.lock -o locks/dask.lock
	uv pip compile --group readers --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --upgrade -c locks/dev.lock -o locks/readers.lock
	uv pip compile --group engines --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --upgrade -o locks/engines.lock

clean: ## Removes .venv and caches; never data
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build dist

# uv installs what pip does, from the same lock files, in a tenth of the time; and shows its progress.
$(VENV)/.ready: locks/run.lock pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	@echo "Making $(VENV) with $(if $(UV),uv,pip: with uv on the PATH it takes seconds)"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --require-hashes -r locks/run.lock
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.ready-dashboard: $(VENV)/.ready locks/dashboard.lock
	@echo "Installing the dashboard's packages (once)"
	@$(INSTALL) --require-hashes -r locks/dashboard.lock
	@touch $@

$(VENV)/.ready-dask: $(VENV)/.ready locks/dask.lock
	@echo "Installing Dask (once)"
	@$(INSTALL) --require-hashes -r locks/dask.lock
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready locks/dev.lock locks/readers.lock
	@$(INSTALL) --require-hashes -r locks/dev.lock
	@$(INSTALL) --require-hashes --upgrade --target $(VENV)/readers -r locks/readers.lock
	@touch $@

$(VENV)/.ready-engines: $(VENV)/.ready-dev locks/engines.lock
	@$(INSTALL) --require-hashes --upgrade --target $(VENV)/engines -r locks/engines.lock
	@touch $@
