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

# Of make results: the recordings, the folder of the runs, the models.
AVSE_DATA ?= ../shared/data
RUNS ?= runs/results
MODELS ?= a-vae,v-vae,av-vae,vae-mm,min-vae-v1,min-vae-v2

.PHONY: demo test test-all test-seeds docs lint bench results clean

demo: $(READY)
	$(BIN)/avse demo --out demo

test: $(READY) lint
	$(PYTEST) -m "not slow"

test-all: $(READY) lint
	$(PYTEST)

# Statistical tests hold whatever the seed: each run adds another number to all of them. The slow ones are run
# as well, but for those of over 30 s.
test-seeds: $(READY)
	@for shift in $(SHIFTS); do \
		echo "seeds shifted by $$shift"; \
		AVSE_SEED_SHIFT=$$shift $(PYTEST) -m "statistical and not long" || exit 1; \
	done

# The documentation site, in docs/_build/html. Its code cells are executed; a warning is an error.
docs: $(VENV)/.docs-ready
	$(BIN)/python -m sphinx -W --keep-going $(SPHINX_OPTIONS) -b html docs docs/_build/html

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/check_types.py

bench: $(READY)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/quality.py

# The results of the shipped models; a run that was stopped goes on.
results: $(READY)
	$(BIN)/avse evaluate --corpus grid --root $(AVSE_DATA) --models $(MODELS) --lips clean,degraded \
		--jobs $(WORKERS) --out $(RUNS)/grid
	$(BIN)/avse evaluate --corpus voicebank-demand --root $(AVSE_DATA)/voicebank --models a-vae \
		--jobs $(WORKERS) --out $(RUNS)/voicebank-demand
	$(BIN)/avse report $(RUNS)/grid
	$(BIN)/avse report $(RUNS)/voicebank-demand
	$(BIN)/python benchmarks/talk.py $(RUNS)/grid $(RUNS)/voicebank-demand
	$(BIN)/python tools/update_tables.py

$(READY): Makefile setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev,evaluation,metrics,serve,synthetic,train,video]"
	touch $@

$(VENV)/.docs-ready: $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

clean:
	rm -rf docs/_build $(VENV) demo build dist *.egg-info .typing
