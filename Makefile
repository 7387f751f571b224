# demo: the main job. test, lint, bench: what the names say. fuzz: thousands of damaged and hostile
# inputs. kills: walks and every verb, killed at random moments. Each prepares what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# torch first and pinned: whatever depends on it must not bring another build.
TORCH = $(shell grep '^torch==' constraints.txt)

.PHONY: demo test lint bench fuzz kills clean

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

# FUZZ_CASES, FUZZ_SEED; FUZZ_ONLY=generator, or generator:number to see one case again.
FUZZ_CASES ?= 5000
FUZZ_SEED ?= 0
fuzz: $(VENV)/.ready-test
	cd tests && PYTHONPATH=.. HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ../$(BIN)/python -m fuzz \
		--cases $(FUZZ_CASES) --seed $(FUZZ_SEED) --only "$(FUZZ_ONLY)" \
		--failures ../fuzz-failures.json

kills: $(VENV)/.ready-test
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python tests/kill_verbs.py --kills 200 --terminations 50

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
