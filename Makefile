# make demo   the main job, on the built-in model and sample_data
# make test   ruff, mypy and all tests
# Both set up .venv first, from pinned versions.

PYTHON ?= python3
BIN = .venv/bin

.PHONY: setup demo test check bench torture families mutants engine docs clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch setuptools
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash docs/demo.sh

check: setup
	$(BIN)/ruff check prefcli tests scripts sample_data benchmarks experiments
	$(BIN)/ruff format --check prefcli tests scripts sample_data benchmarks experiments
	$(BIN)/mypy

test: check
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

# PAIRS=FILE: dialogues in HH-RLHF's format, for the run on a real model
bench: setup
	$(BIN)/python -m benchmarks trl --tiny --batch-size 16 --steps 20
	$(BIN)/python -m benchmarks startup
	$(BIN)/python -m benchmarks gain
	$(if $(PAIRS),$(BIN)/python -m benchmarks trl --pairs $(PAIRS))

# KILLS=N, SIGNALS=N: how often runs of all stages are killed with -9 and sent signals (50 each); then full disks, writers;
# then 20 kills of runs on split weights, in two processes, and what four hold
# FUZZ=N: how many times as many random inputs as in the tests (16: about 2,600)
torture: setup
	PREFCLI_FUZZ=$(or $(FUZZ),16) $(BIN)/pytest -n auto tests/test_fuzz.py
	$(BIN)/python scripts/torture.py $(if $(KILLS),--kills $(KILLS)) $(if $(SIGNALS),--signals $(SIGNALS))
	$(BIN)/python scripts/torture.py --shard 2 --kills 20
	PREFCLI_PROCESSES=4 $(BIN)/pytest tests/test_sharded.py

# Every stage on tiny random models of all families, into docs/models.md; resumes where it was stopped (family-runs/)
# ONLY=llama,gpt2: only those, once more, and no page
families: setup
	$(BIN)/python -m scripts.families $(if $(ONLY),--only $(ONLY) --again,--write)

# Single faults, one at a time in a copy, and whether the tests notice, into docs/testing.md; resumes where it was stopped
# ONLY=rewards,rl: those packages (mutant-runs/ has what is known); WORKERS=N (1)
mutants: setup
	$(BIN)/python -m scripts.mutants $(if $(ONLY),--only $(ONLY)) --workers $(or $(WORKERS),1) --write

# --generate against a real vLLM server on this CPU, in an environment of its own below engine-runs/ (3 GB)
# MODEL=smollm2: on SmolLM2-135M, without ppo
engine: setup
	$(BIN)/python -m scripts.engine $(if $(MODEL),--model $(MODEL) --only greedy drawn stale)

docs: setup
	$(BIN)/python scripts/options_reference.py --write

clean:
	rm -rf .venv runs demo-runs family-runs mutant-runs engine-runs build dist *.egg-info
