# demo: the main job. test, lint, bench: what the names say. Each prepares what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# torch first and pinned: whatever depends on it must not bring another build.
TORCH = $(shell grep '^torch==' constraints.txt)

.PHONY: demo test lint bench clean

demo: $(VENV)/.ready
	$(BIN)/circuit-econ walk study=quickstart

# A worker per core, one thread each. BROWSER=no leaves out the tests that open the page.
test: $(VENV)/.ready-test
ifneq ($(BROWSER),no)
	$(BIN)/python tests/prepare_browser.py
endif
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -q $(if $(filter no,$(BROWSER)),-m "not browser")

lint: $(VENV)/.ready-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/walking.py
	$(BIN)/python benchmarks/income.py

clean:
	rm -rf $(VENV) .pytest_cache .hypothesis .ruff_cache

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/.ready-lint: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[lint]'
	touch $@
