# Everything runs in .venv, which any target makes on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export OMP_NUM_THREADS ?= 1

# Index of the CPU wheels of torch, such as https://download.pytorch.org/whl/cpu; empty for pip's own.
TORCH_INDEX ?=

SHIFTS ?= 1 2 3 4 5

# Processes that share the tests.
WORKERS ?= 2
PYTEST := $(BIN)/pytest -q -n $(WORKERS) --dist loadfile

.PHONY: demo test test-all test-seeds lint bench clean

demo: $(READY)
	$(BIN)/avse demo --out demo

test: $(READY) lint
	$(PYTEST) -m "not slow"

test-all: $(READY) lint
	$(PYTEST)

# Statistical tests hold whatever the seed: each run adds another number to all of them.
test-seeds: $(READY)
	@for shift in $(SHIFTS); do \
		echo "seeds shifted by $$shift"; \
		AVSE_SEED_SHIFT=$$shift $(PYTEST) -m "statistical and not slow" || exit 1; \
	done

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/check_types.py

bench: $(READY)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/quality.py

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev,evaluation,metrics,synthetic,train,video]"
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info .typing
