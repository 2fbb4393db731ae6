# make demo: a first result from nothing. make test: the fast tests from nothing. make test-all: with Ray and submitit too.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all check clean

demo: $(VENV)/.user
	$(BIN)/kdrun distill

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: check $(VENV)/.engines
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/.developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# An environment with kdrun in it; uv where it is installed, since it is quicker, otherwise pip.
$(VENV)/.user: pyproject.toml constraints.txt
	scripts/install.sh "$(PYTHON)" "$(VENV)" "."
	touch $@

$(VENV)/.developer: pyproject.toml constraints.txt
	scripts/install.sh "$(PYTHON)" "$(VENV)" ".[dev]"
	touch $@ $(VENV)/.user

# What sweeps on a cluster need; 75 MB of it are Ray. Slurm itself is the system's: apt-get install slurm-wlm munge.
$(VENV)/.engines: pyproject.toml constraints.txt $(VENV)/.developer
	scripts/install.sh "$(PYTHON)" "$(VENV)" ".[dev,slurm,ray,joblib]"
	touch $@

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .mypy_cache .hypothesis
