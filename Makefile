# Everything here sets itself up in .venv at first use and after a change of pyproject.toml.
# Needed on the machine: Python 3.11 or newer, make, git.
#
#   PYTHON=python3.12   the interpreter to build .venv with (default: the first fit one found)
#   ARGS="..."          more arguments for serve, serve-aws, test, mutants and bench

# Two targets at once would set up one .venv at once, and a benchmark wants no company.
.NOTPARALLEL:
.SUFFIXES:
.DEFAULT_GOAL := help

BIN := .venv/bin

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo '  PYTHON=python3.12 chooses the interpreter, ARGS="..." adds arguments to serve, serve-aws, test, mutants, bench, image-test'

.PHONY: serve
serve: ## run the HTTP API and the workers (Ctrl-C drains and stops)
	@sh scripts/setup serve
	@exec $(BIN)/tqe serve $(ARGS)

.PHONY: serve-aws
serve-aws: setup ## the same on local SQS and DynamoDB servers, which are started and ended with it
	@exec $(BIN)/python -m local_aws -- serve $(ARGS)

.PHONY: test
test: setup ## run all tests, five at a time: much of their time is waiting
	@exec $(BIN)/python -m pytest --numprocesses 5 --maxschedchunk 8 $(ARGS)

.PHONY: test-long
test-long: setup ## the same, with every size in full (nightly)
	@exec env TQE_TEST_LONG=1 $(BIN)/python -m pytest --numprocesses 5 --maxschedchunk 8 -o faulthandler_timeout=3600 $(ARGS)

.PHONY: mutants
mutants: setup ## take each promise's mechanisms out, one at a time, and see its tests fail
	@exec $(BIN)/python -m tests.mutants $(ARGS)

.PHONY: check
check: setup ## lint, formatting, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: format
format: setup ## mend formatting and what else can be mended mechanically
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

.PHONY: bench
bench: ## measure every goal, beside other task queues, and write docs/benchmarks.md
	@sh scripts/setup serve
	@exec $(BIN)/python -m benchmarks $(ARGS)

.PHONY: setup
setup: ## prepare .venv for development (every target does what it needs by itself)
	@sh scripts/setup dev

.PHONY: hooks
hooks: setup ## run the quick checks at every commit from now on
	$(BIN)/pre-commit install

.PHONY: image
image: ## build the container image task-queue-engine
	docker build --tag task-queue-engine:local .

.PHONY: image-test
image-test: ## build it, and see it work, be killed and stop (needs a Docker daemon)
	@exec python3 scripts/image_test.py $(ARGS)

.PHONY: clean
clean: ## remove caches and build output; .venv, databases and files written by tasks stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests benchmarks local_aws scripts -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

.PHONY: distclean
distclean: clean ## clean, and remove .venv
	rm -rf .venv
