# The verbs of this project; `make` alone lists them.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --progress-bar off
STAMP := $(VENV)/.installed
INPUTS := pyproject.toml setup.py constraints.txt $(wildcard requirements/*.txt) $(wildcard serve/rankfleet/engine/native/*.?pp)
# The first Python that runs and is new enough; a name on the PATH may be a shim for one that is not there.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help install serve test check fuzz lint unit docs lock clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

# What has a hash is installed by it. What is left then is PyTorch: which build of it is up to the index that pip uses.
$(STAMP): $(INPUTS)
	@test -n "$(PYTHON)" || { echo "Rankfleet needs Python 3.11 or newer; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes --no-deps --requirement requirements/$(or $(EXTRA),serve).txt
	$(PIP) --constraint constraints.txt --no-build-isolation --editable '.$(EXTRA:%=[%])'
	@$(BIN)/python -c 'from rankfleet.engine.native.library import kernel_files; kernel_files()'
	@touch $@

install: $(STAMP) ## make .venv and install Rankfleet into it

$(VENV)/.dev: $(INPUTS)
	$(MAKE) --no-print-directory -B $(STAMP) EXTRA=dev
	@touch $@

serve: $(STAMP) ## start the demo fleet on 127.0.0.1:8000 (CONFIG=file PORT=n); Ctrl-C stops it
	@$(BIN)/rankfleet serve --config $(or $(CONFIG),demo) --port $(or $(PORT),8000)

lint: $(VENV)/.dev ## check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.dev ## run the unit tests alone: a few minutes, no Ray
	$(BIN)/pytest tests/unit -q

test: lint ## lint and run the unit, engine and integration tests
	$(BIN)/pytest -m 'not slow'

check: $(VENV)/.dev ## run what takes long or needs an environment of its own: the largest models, the minimal install, clients, a browser, Kubernetes manifests
	$(BIN)/pytest -m slow
	$(BIN)/python -m tests.clients.environments
	$(BIN)/python -m tests.check.kubernetes_tools
	$(BIN)/pytest tests/check

fuzz: $(VENV)/.dev ## random inputs and sessions, fifty times as many as in the tests: about an hour
	FUZZ_FACTOR=50 $(BIN)/pytest tests/unit/test_random_session.py tests/unit/test_fuzz_*.py tests/check/test_fuzz.py -q

docs: $(VENV)/.dev ## rewrite the measured figures of README and docs from benchmarks/results
	$(BIN)/python -m benchmarks.figures

lock: $(VENV)/.dev ## write requirements/*.txt, with hashes, after a change of constraints.txt or pyproject.toml
	$(BIN)/python requirements/lock.py

clean: ## remove what the other verbs made
	rm -rf serve/rankfleet/engine/native/*.so $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
