# Two commands on a fresh machine: `make demo` and `make test`. Everything goes into .venv here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: demo test lint bench clean

demo: $(VENV)/installed
	$(BIN)/cutaway tour

test: $(VENV)/installed-dev lint
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/lint-imports

bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/instruments.py
	$(BIN)/python benchmarks/tokenising.py
	$(BIN)/python benchmarks/starting.py
	$(BIN)/python benchmarks/opening.py
	$(BIN)/python benchmarks/grokking.py
	$(BIN)/python benchmarks/ensembles.py
	$(BIN)/python benchmarks/curvature.py
	$(BIN)/python benchmarks/querying.py
	$(BIN)/python benchmarks/dictionaries.py $(if $(PEERS),--peers $(PEERS))
	$(BIN)/python benchmarks/orthogonality.py
	$(BIN)/python benchmarks/probing.py
	$(BIN)/python benchmarks/probes.py solver
	$(BIN)/python benchmarks/probe_pipeline.py
	$(BIN)/python benchmarks/extraction.py $(if $(PEERS),--peers $(PEERS))

$(VENV)/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cutaway needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# the constraints pin torch: an unpinned one brings gigabytes of CUDA libraries
$(VENV)/installed: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
