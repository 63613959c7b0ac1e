# Needs python3 (3.11 to 3.14) and make; everything else goes into .venv, from requirements.txt, and the project itself.
PYTHON ?= python3
BIN := .venv/bin
# Tools run as `$(BIN)/python -m`: a script's first line can't hold the path of every folder, and make 3.81, which macOS
# has, does not look for commands in the PATH that it exports. `mlflow run` does.
export PATH := $(CURDIR)/$(BIN):$(PATH)
COMPILE := $(BIN)/python -m uv pip compile --quiet --universal --fork-strategy fewest
# pip prints three lines for each of 150 packages. Of these, a download of more than 1 MB is shown as it begins.
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
INSTALL = { $(PIP_INSTALL) --progress-bar off -r $(1) || echo failed; } | \
	while read -r line; do case $$line in \
		*" MB)"* | *" GB)"*) echo "  $$line" ;; \
		Installing*) echo "  Installing all" ;; \
		failed) exit 1 ;; \
	esac; done
# A process for each core, whose computations then take one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: help ablation test test-all bench lint ui ray lock clean

help:            ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

ablation: .venv/installed  ## the study of base, bn and dropout on the built-in data, no download (1 to 3 minutes)
	$(BIN)/python -m mlflow run . -e ablate --env-manager local --experiment-name synthetic \
		-P dataset=synthetic -P epochs=5 -P seeds=3

test: .venv/installed lint ## lint, check types and run the tests
	$(PYTEST)

test-all: .venv/installed lint ## also the thorough tests: hundreds of kills, flips and bad inputs (50 minutes)
	$(PYTEST) -m "thorough or not thorough"

bench: .venv/installed ## measure speed against the tutorial's loop, into docs/benchmarks (12 minutes; OPTIONS=--quick: one)
	$(BIN)/python -m benchmarks.speed $(OPTIONS)

lint: .venv/installed ## check style, types, and that each package imports only what is below it
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -c "from importlinter.cli import lint_imports_command as lint; lint()" --no-logo --no-cache

ui: .venv/installed ## open MLflow's interface on the runs, at http://127.0.0.1:5000 (PORT=5001: there)
	$(BIN)/python -m pipeline ui $(PORT:%=--port %)

ray: .venv/ray   ## install Ray, to train on a cluster

lock: .venv/installed ## resolve requirements.txt and requirements-ray.txt again from pyproject.toml
	$(COMPILE) --extra dev pyproject.toml -o requirements.txt
	$(COMPILE) --extra ray -c requirements.txt pyproject.toml -o requirements-ray.txt
	sed "s/^# requirements.txt: .*/# requirements.txt: $$(git hash-object requirements.txt)/" conda.yaml > conda.yaml.new
	mv conda.yaml.new conda.yaml

# The stamp is younger than these files exactly when their content is installed. The project is installed where it is,
# with its command `pipeline`, by setuptools from requirements.txt.
.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || { \
		echo "error: $(PYTHON) is not Python 3.11 to 3.14; name one that is: make PYTHON=python3.12"; exit 2; }
	@echo "Setting up .venv takes about 7 GB and some minutes; of its packages, these are large:"
	@$(PYTHON) -m venv .venv
	@$(call INSTALL,requirements.txt)
	@$(PIP_INSTALL) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv/ray: .venv/installed requirements-ray.txt
	@$(call INSTALL,requirements-ray.txt)
	@touch $@

clean: ## remove .venv and caches; runs and models stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
