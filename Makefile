# Everything below runs in a virtual environment of its own, made on first use.
#
#   make figure5 PYTHON=python3.12    another interpreter, 3.11 or newer
#   make test CONSTRAINTS=            newest versions that pyproject.toml allows
#   make test PYTEST_FLAGS="-k cli"   other flags for pytest
#   make soak SOAK_FLAGS="--cores 1000 --layers 20 --hours 8"   other flags for sinai.report.soak
#   make tradeoff DATA=imagefolder:DIR ATTACK_FLAGS="--images 500"  other flags for sinai attack

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= .ci/constraints.txt
PYTEST_FLAGS ?= -n auto
FIGURE5 ?= build/figure5
CYCLES ?= build/cycles
SOAK_FLAGS ?= --cores 2000 --layers 10 --hours 1
CHECKPOINT ?= resnet18-cifar10jpeg
ROBUST ?= build/robust
ATTACK_FLAGS ?= --images 50 --queries 100 $(addprefix --attack ,fgsm pgd bpda transfer square) \
  $(addprefix --scheme ,dense unstructured:0.5 unstructured:0.9 structured:4:8 structured:7:8)

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS))

.DELETE_ON_ERROR:
.PHONY: help figure5 test lint format wheel pse-exhaustive registers lint-verilog engines soak networks cycles bench-rtl theory tradeoff study clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 22

figure5: $(VENV)/core ## replay the bundled traces, write build/figure5
	$(BIN)/sinai figure5 -o $(FIGURE5) --force

test: lint ## check style, run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(VENV)/everything ## check style alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/everything ## put the sources into the house format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

wheel: $(VENV)/everything ## build dist/*.whl and dist/*.tar.gz
	$(BIN)/python -m build

pse-exhaustive: $(VENV)/everything ## all 2**32 operand pairs of the multiplier, on its gates
	$(BIN)/python -m sinai.hw.exhaustive

registers: $(VENV)/core ## docs/registers.md anew, from the tables behind the RTL
	$(BIN)/python -m sinai.hw.register_map

lint-verilog: $(VENV)/everything ## Verilog of every preset through Verilator and Icarus
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m exhaustive -v --durations=0 tests/hw/test_verilog.py

engines: $(VENV)/everything ## both simulator engines on every bundled trace, equal to the cycle
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_engines.py

soak: $(VENV)/everything ## RTL, simulator and integer model on random machines and layers
	OMP_NUM_THREADS=1 $(BIN)/python -m sinai.report.soak $(SOAK_FLAGS)

networks: $(VENV)/everything ## every layer of ResNet-18 through the RTL of the published machines
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/networks.py -o build/networks

cycles: $(VENV)/core ## where the cycles go, with the sweeps of T, beta and W, into build/cycles
	OMP_NUM_THREADS=1 $(BIN)/sinai cycles --sweeps -o $(CYCLES) --force

bench-rtl: $(VENV)/everything ## cycles a second of the compiled RTL of the published machines
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_rtl.py

theory: $(VENV)/everything ## the paper's theorems measured on the bundled networks, build/theory
	OMP_NUM_THREADS=1 $(BIN)/python -m sinai.report.theory -o build/theory --force

tradeoff: $(ROBUST)/robustness.json ## attack CHECKPOINT, DATA=KIND:PATH; worst case against EDP, build/tradeoff
	OMP_NUM_THREADS=1 $(BIN)/sinai tradeoff $(ROBUST) -o build/tradeoff --force

# Goes on after the last batch where it was interrupted; a new checkpoint is attacked anew.
$(ROBUST)/robustness.json: $(wildcard model/checkpoints/$(CHECKPOINT)/checkpoint.json) | $(VENV)/everything
	@test -n "$(DATA)" || { echo "make tradeoff needs test images: DATA=imagefolder:DIR" >&2; exit 2; }
	$(BIN)/sinai attack $(CHECKPOINT) --data $(DATA) $(ATTACK_FLAGS) -o $(ROBUST) --force

study: $(VENV)/everything ## what the accelerator's choices cost in accuracy, DATA=KIND:PATH; build/study
	@test -n "$(DATA)" || { echo "make study needs images: DATA=imagefolder:DIR" >&2; exit 2; }
	OMP_NUM_THREADS=1 $(BIN)/python -m sinai.report.study --data $(DATA) -o build/study --force

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each says that the step before it is done, and is renewed when what it was made from
# changes. pip reads dependency groups from 25.1 on.
$(VENV)/pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("sinai needs Python 3.11 or newer, not " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	touch $@

$(VENV)/core: pyproject.toml $(CONSTRAINTS) | $(VENV)/pip
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/everything: pyproject.toml $(CONSTRAINTS) | $(VENV)/pip
	$(PIP_INSTALL) --editable ".[model,rtl]" --group dev
	touch $@ $(VENV)/core
