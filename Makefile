# make run     serve: the real upstream with OXYY_API_KEY set, else a simulator beside it
# make test    all tests
# make check   lint, types, layers, and a test file for every module
# make torture every fault, random sequences of them, and what must hold all the same: tests/evidence/faults.toml
# make bench   what a request costs, against a naive pass-through, direct and nginx: tests/evidence/bench.toml
# make bench-check   has a request become dearer? its instructions, against those of tests/evidence/instructions.toml

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test check torture bench bench-check clean

$(VENV)/run.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/dev.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/run.stamp

run: $(VENV)/run.stamp
	@if [ -n "$$OXYY_API_KEY$$OXYY_API_KEY_FILE" ]; then exec $(BIN)/oxyy-proxy serve; else exec $(BIN)/oxyy-proxy demo; fi

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/mirror.py

torture: $(VENV)/dev.stamp
	$(BIN)/python -m tests.faults $(ARGS)

bench: $(VENV)/dev.stamp
	$(BIN)/python -m tests.benchmarks $(ARGS)

bench-check: $(VENV)/dev.stamp
	$(BIN)/python -m tests.benchmarks.instructions $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
