# Each target sets up what it needs: a virtual environment in .venv, from ci/constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest --durations=12 --durations-min=10

.DEFAULT_GOAL := help
.PHONY: help setup native demo test test-fast check test-slow test-slow-1 test-slow-2 test-slow-3 test-gpu bench bench-gpu bench-flat soak storm fuzz image clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(STAMP)  ## Create .venv and install everything into it

# torch first and pinned: a bare range pulls gigabytes of CUDA packages on a CPU machine.
# The two versions are compared because a dependency may swap torch silently.
$(STAMP): pyproject.toml ci/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c ci/constraints.txt torch
	$(BIN)/python -c "import importlib.metadata as m; print(m.version('torch'))" > $(VENV)/torch-before
	$(BIN)/python -m pip install -q --disable-pip-version-check -c ci/constraints.txt -e '.[dev]'
	$(BIN)/python -c "import importlib.metadata as m; print(m.version('torch'))" > $(VENV)/torch-after
	cmp $(VENV)/torch-before $(VENV)/torch-after || { echo "a dependency replaced torch"; exit 1; }
	touch $(STAMP)

native: $(STAMP)  ## Compile the native step (needs g++; a few seconds); without it everything works, slower
	$(BIN)/python -m stream_rnn.native

demo: $(STAMP)  ## Learn a real stream that comes along: no broker, no file, no GPU; about a minute
	$(BIN)/stream-rnn demo

test: $(STAMP)  ## All tests but the GPU's and the soak: fast and slow ones side by side
	$(MAKE) --no-print-directory --output-sync=target -j3 test-fast test-slow-1 test-slow-2 test-slow-3

test-fast: $(STAMP)  ## Only the fast tests
	$(PYTEST) -q -m "not slow and not gpu"

check: $(STAMP)  ## Format, lint, types, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -q -m "not slow and not gpu"

test-slow: test-slow-1 test-slow-2 test-slow-3  ## Only the slow tests (kill storms, real servers, every page's blocks)

# Three parts: they wait for processes half of the time. The third one is the shortest, and begins when
# another part is through.
SLOW_1 := tests/crash tests/deploy tests/docs
SLOW_3 := tests/journal tests/poison

test-slow-1: $(STAMP)
	$(PYTEST) -q -m "slow and not gpu" $(SLOW_1)

test-slow-2: $(STAMP)
	$(PYTEST) -q -m "slow and not gpu" $(addprefix --ignore=,$(SLOW_1) $(SLOW_3))

test-slow-3: $(STAMP)
	$(PYTEST) -q -m "slow and not gpu" $(SLOW_3)

test-gpu: $(STAMP)  ## Only the tests that need a CUDA device
	$(PYTEST) -q -m gpu

bench-gpu: $(STAMP)  ## Ticks on a GPU: launched one by one, from a CUDA graph, and the floor
	$(BIN)/python -m benchmarks.gpu

bench: $(STAMP)  ## Two minutes: each tick beside its floor, the daemon by stage, bit-identity (DEEP_RIVER=PYTHON: beside it)
	OMP_NUM_THREADS=1 $(BIN)/stream-rnn bench
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.identical
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.versus_deep_river $(if $(DEEP_RIVER),--deep-river $(DEEP_RIVER))
	@echo "not measured here: flatness over 2,000,000 events (make bench-flat), memory over 1,000,000 (make soak)"

bench-flat: $(STAMP)  ## Ten minutes: is the last tick of 2,000,000 as fast as the first, dead inputs included
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.flat

STORM_S ?= 1800
storm: $(STAMP)  ## Kill daemons and producers for half an hour (STORM_S=180: three minutes); compare with undisturbed runs
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.storm --seconds $(STORM_S)

soak: $(STAMP)  ## 1,000,000 events: memory and time per event, with their slopes
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.soak --events 1000000

fuzz: $(STAMP)  ## Mutated payloads (1,000,000), snapshots (100,000), configurations, influences, rewinds (10,000); hours
	OMP_NUM_THREADS=1 RUST_BACKTRACE=0 $(BIN)/python -m benchmarks.fuzz 2> /dev/null

image:  ## Build the container image and run it: learns, ends, goes on, survives kill -9 (root, no Docker)
	deploy/docker/try.sh

clean:  ## Remove what the targets made (.venv too)
	rm -rf $(VENV) out .mypy_cache .ruff_cache *.egg-info
