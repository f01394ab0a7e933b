# The commands. Each sets up .venv by itself; all they need is Python 3.11 or later.
#
#   make demo   train an agent for two minutes and show what it learned
#   make test   all tests, the ones that train included
#   make lint   format, style and types
#   make interop  train TorchRL's and RLlib's PPO and d3rlpy's IQL here, in environments of their own: an hour
#   make outsider  train MORL-Baselines' CAPQL for the frontier of many goals, in an environment of its own: an hour
#   make audit  known vulnerabilities of the pinned dependencies, where PyPI can be asked
#   make docs   the documentation, in build/docs; warnings are errors
#   make kill   kill every command that goes on after it, before and after each of its file operations: hours
#   make bench-check  what is faster than what, measured again beside the recorded ratios: minutes
#   make fuzz   odd inputs, fresh ones at each run, and what comes of them
#
# Variables:
#   PYTHON=python3.12                  the interpreter that .venv is made with
#   TORCH="torch==2.13.0 --index-url URL"   another build of torch; by default pip's own choice, which on
#                                      Linux brings CUDA. On an existing .venv: `make clean` first.
#   PYTEST_ARGS="-m 'not slow'"        what pytest is told besides
#   WORKERS=4                          test processes (one torch thread each)
#   KILL_ARGS="--commands train"       what `make kill` is told besides
#   EXAMPLES=20000 SECONDS=600         how many inputs `make fuzz` draws, and for how long at most

PYTHON ?= python3
TORCH ?= torch==2.13.0
WORKERS ?= 2
PYTEST_ARGS ?=
KILL_ARGS ?=
EXAMPLES ?= 20000
SECONDS ?= 3600

BIN := .venv/bin
LOWEST := .cache/venv-lowest
INTEROP := .cache/venv-torchrl .cache/venv-rllib .cache/venv-d3rlpy
MORL := .cache/venv-morl
AUDIT := .cache/venv-audit
AUDITOR := pip-audit==2.10.1
PIP := -m pip --disable-pip-version-check --quiet

.PHONY: help setup demo test test-lowest interop outsider audit lint docs kill fuzz bench-check format clean

help:
	@awk '!/^#/ { exit } { sub(/^# ?/, ""); print }' Makefile

setup: .venv/installed

demo: setup
	$(BIN)/python -m benchmarks.agents.demo

# One torch thread a worker, so that the workers do not fight for the cores.
test: setup
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(PYTEST_ARGS)

test-lowest: $(LOWEST)/installed
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -m "not slow" $(PYTEST_ARGS)

# Their pins differ from ours (RLlib's is another Gymnasium), so that none of them shares .venv.
interop: $(INTEROP:=/installed)
	OMP_NUM_THREADS=1 .cache/venv-torchrl/bin/python -m examples.interop.torchrl_ppo
	OMP_NUM_THREADS=1 .cache/venv-rllib/bin/python -m examples.interop.rllib_ppo
	OMP_NUM_THREADS=1 .cache/venv-d3rlpy/bin/python -m examples.interop.d3rlpy_iql

outsider: $(MORL)/installed
	OMP_NUM_THREADS=1 $(MORL)/bin/python -m benchmarks.agents.frontier --contenders uniform capql

# An environment of its own, so that what the auditor needs is not among what it audits.
audit: $(AUDIT)/installed
	$(AUDIT)/bin/python .ci/audit.py constraints.txt

# The properties of tests/fuzz on fresh inputs for half of the time, then a count of what comes of a quarter as many.
fuzz: setup
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 RECSIM_FUZZ=1 EXAMPLES=$(EXAMPLES) SECONDS=$$(($(SECONDS) / 2)) \
		$(BIN)/python -m pytest tests/fuzz $(PYTEST_ARGS); \
	properties=$$?; \
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.census \
		--examples $$(($(EXAMPLES) / 4)) --seconds $$(($(SECONDS) / 2)) && exit $$properties

lint: setup
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m ruff check
	$(BIN)/python -m mypy

# The pages of the reference are made anew, so that none is left of a module that was moved.
docs: setup
	rm -rf build/docs docs/reference/modules
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs build/docs
	@echo "build/docs/index.html"

kill: setup
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m tests.kill --every $(KILL_ARGS)

bench-check: setup
	OMP_NUM_THREADS=2 MKL_NUM_THREADS=2 $(BIN)/python -m benchmarks.speed.check

format: setup
	$(BIN)/python -m ruff check --fix-only
	$(BIN)/python -m ruff format

clean:
	rm -rf .venv $(LOWEST) $(INTEROP) $(MORL) $(AUDIT) build docs/reference/modules dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# The stamp lies inside the environment, so that it goes when the environment goes; an installation that
# was broken off has none and is started again.
.venv/installed: pyproject.toml constraints.txt
	$(call create,.venv)
	$(BIN)/python $(PIP) install --constraint constraints.txt $(TORCH)
	$(BIN)/python $(PIP) install --constraint constraints.txt --editable ".[render,train,data,serve,peers,interop,offline,mo,scale,llm,docs,dev]"
	@touch $@

$(LOWEST)/installed: pyproject.toml constraints-lowest.txt
	$(call create,$(LOWEST))
	$(LOWEST)/bin/python $(PIP) install --constraint constraints-lowest.txt $(TORCH)
	$(LOWEST)/bin/python $(PIP) install --constraint constraints-lowest.txt --editable ".[render,train,data,serve,peers,interop,offline,mo,scale,llm]" pytest
	@touch $@

# The files are whole lists, d3rlpy's with another Gymnasium than it asks for: nothing is resolved.
$(INTEROP:=/installed) $(MORL)/installed: .cache/venv-%/installed: pyproject.toml examples/interop/%.txt
	$(call create,.cache/venv-$*)
	.cache/venv-$*/bin/python $(PIP) install $(TORCH)
	.cache/venv-$*/bin/python $(PIP) install --no-deps --requirement examples/interop/$*.txt
	.cache/venv-$*/bin/python $(PIP) install --no-deps --editable .
	@touch $@

$(AUDIT)/installed: Makefile
	$(call create,$(AUDIT))
	$(AUDIT)/bin/python $(PIP) install $(AUDITOR)
	@touch $@

define create
@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed, $(PYTHON) is " + sys.version.split()[0] + ": say which one with PYTHON=...")'
@echo "Setting up $(1): a few minutes, this once."
$(PYTHON) -m venv $(1)
endef
