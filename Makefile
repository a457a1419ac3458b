# The verbs of this project; `make` alone lists them.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
INPUTS := pyproject.toml setup.py constraints.txt $(wildcard serve/rankfleet/engine/native/*.?pp)
# The first Python that runs and is new enough; a name on the PATH may be a shim for one that is not there.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help install serve test check fuzz lint unit docs clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

$(STAMP): $(INPUTS)
	@test -n "$(PYTHON)" || { echo "Rankfleet needs Python 3.11 or newer; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt setuptools
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --progress-bar off --quiet --editable '.$(EXTRAS)'
	@$(BIN)/python -c 'from rankfleet.engine.native.library import kernel_files; kernel_files()'
	@touch $@

install: $(STAMP) ## make .venv and install Rankfleet into it

$(VENV)/.dev: $(INPUTS)
	$(MAKE) --no-print-directory -B $(STAMP) EXTRAS='[dev]'
	@touch $@

serve: $(STAMP) ## start the demo fleet on 127.0.0.1:8000 (CONFIG=file PORT=n); Ctrl-C stops it
	@$(BIN)/rankfleet serve --config $(or $(CONFIG),demo) --port $(or $(PORT),8000)

lint: $(VENV)/.dev ## check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.dev ## run the unit tests alone: seconds, no Ray
	$(BIN)/pytest tests/unit -q

test: lint ## lint and run the unit, engine and integration tests
	$(BIN)/pytest -m 'not slow'

check: $(VENV)/.dev ## run what takes long or needs an environment of its own: the largest models, the minimal install, clients, a browser, Kubernetes manifests
	$(BIN)/pytest -m slow
	$(BIN)/python -m tests.clients.environments
	$(BIN)/python -m tests.check.kubernetes_tools
	$(BIN)/pytest tests/check

fuzz: $(VENV)/.dev ## run a million random steps of a fleet whose parts fail: about 15 minutes
	FUZZ_EXAMPLES=11500 $(BIN)/pytest tests/unit/test_random_session.py -q

docs: $(VENV)/.dev ## rewrite the measured figures of README and docs from benchmarks/results
	$(BIN)/python -m benchmarks.figures

clean: ## remove what the other verbs made
	rm -rf serve/rankfleet/engine/native/*.so $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
