# Each target sets up .venv first when it is missing or older than the lock.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RIVALS := benchmarks/.venvs/rivals
DETECTORS := benchmarks/.venvs/drift
export PATH := $(abspath $(VENV))/bin:$(PATH)
export VIRTUAL_ENV := $(abspath $(VENV))
HOME_OF_STATE = $(or $(VISIONLOOP_HOME),$(CURDIR)/var)

.PHONY: help setup demo test check fire-drill soak bench rivals serve ui deploy lock clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(READY) ## create .venv from requirements.lock

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "visionloop needs Python 3.11 or newer: make PYTHON=python3.11")'
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@awk '/^uv==/ {keep=1} keep {print} keep && !/\\$$/ {exit}' requirements.lock > $(VENV)/uv.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock
	$(VENV)/bin/uv pip sync --quiet --system-certs --compile-bytecode --require-hashes requirements.lock
	@$(VENV)/bin/python -c 'from pipeline.telemetry import install; print("telemetry off:", install())'
	@touch $(READY)

demo: setup ## the whole loop on the embedded sample
	$(VENV)/bin/python -m flows.demo

test: setup ## every test, in as many processes as there are cores, four at most
	$(VENV)/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: setup ## lint, types, architecture and the fast tests, under a minute
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy & types=$$!; $(VENV)/bin/python -m pytest -m "not slow and not real" -q; tests=$$?; \
		wait $$types && exit $$tests

fire-drill: setup ## faults planted in a real run, and which gate refuses each: reports/fire_drill.json
	$(VENV)/bin/python -m flows.fire_drill

soak: setup ## a simulated year of the loop, with shifts, kills and late labels, some ten minutes on two idle cores: reports/soak.html
	$(VENV)/bin/python -m flows.soak

bench: setup rivals ## ours beside timm's train.py and fastai, the gate's own error rates, and drift beside its detectors, some 105 minutes on two idle cores: benchmarks/README.md
	$(VENV)/bin/python -m benchmarks.ingest
	$(VENV)/bin/python -m benchmarks.engine
	$(VENV)/bin/python -m benchmarks.best_flags
	$(VENV)/bin/python -m benchmarks.training_speed
	$(VENV)/bin/python -m benchmarks.time_to_accuracy
	$(VENV)/bin/python -m benchmarks.gate
	$(VENV)/bin/python -m benchmarks.log_cost
	$(VENV)/bin/python -m benchmarks.drift
	$(VENV)/bin/python -m benchmarks.drift_speed
	$(VENV)/bin/python -m benchmarks.table

rivals: $(RIVALS)/.ready $(DETECTORS)/.ready ## the rivals' own environments, for make bench

$(RIVALS)/.ready: benchmarks/rivals/requirements.txt | setup
	$(VENV)/bin/uv venv --quiet --allow-existing --python $(VENV)/bin/python $(RIVALS)
	$(VENV)/bin/uv pip sync --quiet --system-certs --compile-bytecode --python $(RIVALS)/bin/python $<
	@touch $@

$(DETECTORS)/.ready: benchmarks/rivals/drift-requirements.txt | setup
	$(VENV)/bin/uv venv --quiet --allow-existing --python $(VENV)/bin/python $(DETECTORS)
	$(VENV)/bin/uv pip sync --quiet --system-certs --compile-bytecode --python $(DETECTORS)/bin/python $<
	@touch $@

serve: setup ## answer with the champion on http://127.0.0.1:3000
	BENTOML_HOME=$(HOME_OF_STATE)/bentoml $(VENV)/bin/bentoml serve services.classifier:Classifier --host 127.0.0.1 --port 3000

ui: setup ## the drift dashboards on http://127.0.0.1:8011
	$(VENV)/bin/evidently ui --workspace $(HOME_OF_STATE)/evidently --host 127.0.0.1 --port 8011

deploy: setup ## register the deployments at the Prefect server that PREFECT_API_URL names
	$(VENV)/bin/python -m flows.automation pools
	$(VENV)/bin/prefect --no-prompt deploy --all
	$(VENV)/bin/python -m flows.automation events

lock: setup ## resolve pyproject.toml again into requirements.lock
	$(VENV)/bin/uv pip compile --quiet --system-certs pyproject.toml --extra dev --universal --generate-hashes \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links --upgrade -o requirements.lock

clean: ## remove what is derived; state under var/ stays
	rm -rf artifacts reports
