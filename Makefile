# make setup · make run · make test · make lint · make bench · make validate · make clean            (make help lists all)
PYTHON ?= python3
VENV ?= .venv
CORES ?= $(shell nproc 2>/dev/null || echo 2)
BIN := $(VENV)/bin
STAMP := $(VENV)/.saedrift-installed
BENCH_VENV ?= .venv-bench
BENCH := $(BENCH_VENV)/bin
BENCH_STAMP := $(BENCH_VENV)/.saedrift-peers
INSTALL := python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup run dry-run test test-fast test-slurm test-conda lint format bench bench-gpu bench-sae validate clean

help:  ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## Create the virtual environment and install everything at the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt setup.py sae_core/kernels/native/kernels.cpp
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "saedrift needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Give another: make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[workflow,slurm,dev]'
	@touch $@

run: setup  ## Run the study of config.yaml (CORES=n, ARGS='--config …')
	$(BIN)/snakemake --cores $(CORES) $(ARGS)

dry-run: setup  ## Show what would run, and why
	$(BIN)/snakemake --dry-run --cores $(CORES) $(ARGS)

test: setup  ## All tests: the fast ones first, then whole pipelines and a real model, speeds last
	$(BIN)/python -m pytest -n auto -m "not slow"
	$(BIN)/python -m pytest -n auto --dist loadfile -m "slow and not timed"
	$(BIN)/python -m pytest -m timed

test-fast: setup  ## Tests without whole pipelines
	$(BIN)/python -m pytest -n auto -m "not slow"

test-slurm: setup  ## The tiny pipeline through profiles/slurm on a one-machine SLURM (root, Debian's slurm-wlm and munge)
	tests/tools/run_on_slurm.sh $(BIN)

test-conda: setup  ## The tiny pipeline with --use-conda: a stand-in for conda's command line and a local channel
	tests/tools/run_with_conda.sh $(BIN)

lint: setup  ## Style, types, import directions, rule files, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

format: setup  ## Format Python and rule files, rewrite generated files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules
	$(BIN)/python -m workflow.config.document
	$(BIN)/python -m workflow.environments

$(BENCH_STAMP): benchmarks/requirements.txt constraints.txt pyproject.toml setup.py sae_core/kernels/native/kernels.cpp
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH)/$(INSTALL) -e . matplotlib scipy pytest pytest-timeout
	@grep '^[a-z]' benchmarks/requirements.txt | while read -r peer hash alone; do \
		$(BENCH)/$(INSTALL) $${alone:+--no-deps} "$$peer" || echo "$$peer could not be installed; the tables will say that it is absent"; \
	done
	@touch $@

bench-sae: $(BENCH_STAMP)  ## The SAE update beside dense autograd and public trainers, its cost curve, recovery (an environment of their own)
	$(BENCH)/python -m benchmarks.bench_sae_update
	$(BENCH)/python -m benchmarks.bench_sae_cost
	$(BENCH)/python -m benchmarks.bench_recovery

bench: setup bench-sae  ## All benchmarks that need no GPU: bench-sae, extraction, SSAEs in use (benchmarks/results/)
	$(BIN)/python benchmarks/bench_extraction.py
	$(BIN)/python benchmarks/bench_ssae_generation.py
	$(BIN)/python benchmarks/bench_ssae_encoding.py

bench-gpu: $(BENCH_STAMP)  ## The SAE update and its cost curve on a CUDA device
	$(BENCH)/python -m benchmarks.bench_sae_update --device cuda
	$(BENCH)/python -m benchmarks.bench_sae_cost --device cuda

validate: setup  ## Validation of drift on planted worlds (benchmarks/results/validation.csv, docs/validation.svg)
	$(BIN)/python -m benchmarks.validate_drift --processes $(CORES)

clean:  ## Remove results and Snakemake's records; the converted model in the cache and the environment stay
	find results -mindepth 1 ! -path results/README.md -delete
	rm -rf .snakemake
