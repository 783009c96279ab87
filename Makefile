# One command each; every one sets up what it needs from python3, pip and make alone.
.PHONY: run test test-fast test-strategies test-pooler schemathesis fuzz campaign failover histories mutants services check setup bench bench-phases bench-latency bench-attacks bench-growth bench-endurance bench-statements bench-pooler lock clean
.DEFAULT_GOAL := run

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Compiled once, at set-up: a start takes one second then, and three without.
export PYTHONDONTWRITEBYTECODE :=

run: $(BIN)/holdfast  ## serve on 127.0.0.1:8000 with a private PostgreSQL
	@$(BIN)/holdfast serve --demo $(ARGS)

setup: $(BIN)/holdfast  ## make .venv with .venv/bin/holdfast in it

test: $(VENV)/dev  ## run every test, in two processes for each core (ARGS="-k name" picks some)
	@$(PYTEST) $(ARGS)

test-fast: $(VENV)/dev  ## run the tests that need PostgreSQL only (tests/slow.py names the others)
	@$(PYTEST) --fast $(ARGS)

PYTEST = $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-strategies: $(VENV)/dev  ## run the contract's tests with each strategy in turn
	@for strategy in $(STRATEGIES); do echo "Strategy $$strategy"; \
		HOLDFAST_TEST_STRATEGY=$$strategy $(PYTEST) $(CONTRACT) $(ARGS) || exit 1; done

STRATEGIES ?= guard version pessimistic serializable advisory redis zookeeper
CONTRACT ?= $(addprefix tests/test_,$(addsuffix .py,identity reservations expiry refunds stock \
	imports batch two_services races page))

test-pooler: $(VENV)/dev  ## run the contract's tests through PgBouncer in transaction mode
	@HOLDFAST_TEST_POOLER=1 $(PYTEST) $(CONTRACT) $(ARGS)

services:  ## install Debian's servers and clients that some strategies and tests need
	@if [ "$$(id -u)" = 0 ]; then apt-get update -qq && $(INSTALL_SERVICES); \
	else echo "Not root, so nothing was installed. As root: $(INSTALL_SERVICES)"; fi

INSTALL_SERVICES = DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
	redis-server zookeeper etcd-server pgbouncer nginx default-jdk-headless

check: $(VENV)/dev  ## formatter, linter, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

schemathesis: $(VENV)/dev  ## ask the API whatever its document allows, and what it forbids (ARGS="--seed 7 -n 500")
	@$(BIN)/python -m tests.schemathesis $(ARGS)

fuzz: $(VENV)/dev  ## send random hostile inputs to every parser (ARGS="--examples 100000 --seed 7")
	@$(BIN)/python -m tests.fuzz $(ARGS)

campaign: $(VENV)/dev  ## hurt a running service for an hour (ARGS="--minutes 5 --seed 7")
	@$(BIN)/python -m tests.faults $(ARGS)

failover: $(VENV)/dev  ## kill the primary of a Patroni cluster under load, again and again
	@$(BIN)/python -m tests.faults.failover $(ARGS)

histories: $(VENV)/dev  ## check many histories of real clients, while workers and connections die
	@HOLDFAST_TEST_ROUNDS=$(or $(ROUNDS),200) $(BIN)/python -m pytest -s --timeout 0 tests/test_histories.py $(ARGS)

mutants: $(VENV)/dev  ## change the rules in every small way and see whether a test notices
	@HOLDFAST_TEST_EXAMPLES=$(or $(EXAMPLES),100) $(BIN)/mutmut run $(ARGS); $(BIN)/mutmut results

bench: $(VENV)/dev  ## measure against a bare route and what teams write (needs wrk)
	@$(BIN)/python -m bench $(ARGS)

bench-phases: $(VENV)/dev  ## measure where a batch's time goes, step by step
	@$(BIN)/python -m bench.phases $(ARGS)

bench-statements: $(VENV)/dev  ## measure what PostgreSQL does for a reservation (needs wrk)
	@$(BIN)/python -m bench.statements $(ARGS)

bench-latency: $(VENV)/dev  ## measure at fixed rates of arrivals, and in a flood (needs wrk)
	@$(BIN)/python -m bench.latency $(ARGS)

bench-attacks: $(VENV)/dev  ## measure what requests that are made to hurt cost all others
	@$(BIN)/python -m bench.attacks $(ARGS)

bench-growth: $(VENV)/dev  ## measure a database of millions of rows beside an empty one (needs wrk)
	@$(BIN)/python -m bench.growth $(ARGS)

bench-endurance: $(VENV)/dev  ## measure one hot row for ten minutes: speed, memory, table (needs wrk)
	@$(BIN)/python -m bench.endurance $(ARGS)

bench-pooler: $(VENV)/dev  ## measure PgBouncer beside a direct connection (needs wrk)
	@$(BIN)/python -m bench.pooler $(ARGS)

lock:  ## resolve the dependencies again, with hashes and without any registry's address
	uv pip compile --universal --generate-hashes --no-header --quiet --upgrade --python-version 3.11 pyproject.toml --all-extras --group build -o requirements.lock
	uv pip compile --universal --generate-hashes --no-header --quiet --upgrade --python-version 3.11 pyproject.toml --all-extras --group dev -c requirements.lock -o requirements-dev.lock

clean:  ## remove the environment and the caches, but no data
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage build *.egg-info

# uv if it can be had, pip otherwise: both check every hash.
INSTALL = if $(BIN)/python -m pip install --quiet --disable-pip-version-check uv 2>/dev/null; \
	then $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r $(1); \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(1); fi

$(BIN)/holdfast: requirements.lock pyproject.toml
	@echo "Setting up $(VENV) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(call INSTALL,requirements.lock)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib service db holdfast.py || true  # some packages ship templates
	@touch $@

$(VENV)/dev: requirements-dev.lock $(BIN)/holdfast
	@$(call INSTALL,requirements-dev.lock)
	@touch $@
