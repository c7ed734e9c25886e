# Needs make and Python 3.11, 3.12 or 3.13; everything else is installed into .venv.
# PYTHON=/path/to/python picks another interpreter for a new .venv.

.DEFAULT_GOAL := help
SHELL := /bin/sh
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PYTHONS := python3.13 python3.12 python3.11 python3 python
IS_SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes --no-compile
# uv installs in a quarter of pip's time; pip does where uv cannot be had or cannot reach the index.
UV := $(VENV)/uv/bin/uv
GET_UV := test -x $(UV) || $(BIN)/python $(PIP_INSTALL) --target $(VENV)/uv -r requirements/uv.txt
# The index that pip knows; uv has its own default.
PIP_INDEX := $${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2>/dev/null)}
# On all cores; errors are in packages' files for other versions of Python. Few import what is left out.
COMPILE_ALL := -W ignore -m compileall -qq -j 0 -x '/(ray|tests)/' $(VENV)/lib
# This checkout under the name nextchar; setuptools is in the lock files.
PIP_EDITABLE := -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
ROLES := api worker serve build dev gpu
# How many tests run at once; more than there are cores pays where tests wait.
TEST_PROCESSES ?= 4

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(VENV)/.serve ## Make .venv with the nextchar command and all that it needs; compile the kernels
	@$(BIN)/python -m nextchar.worker.warm_up

.PHONY: demo
demo: $(VENV)/.serve ## Train on a text, complete and score it, stop; CORPUS=file for your own text
	@$(BIN)/nextchar demo $(if $(CORPUS),"$(CORPUS)")

.PHONY: serve
serve: $(VENV)/.serve ## Run the whole service on this machine until Ctrl-C
	@exec $(BIN)/python models/die_with_parent.py $$PPID $(BIN)/nextchar serve

# Hundreds of processes import this checkout, and two collect the tests: they compile each module once.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

.PHONY: test
test: $(VENV)/.dev $(if $(shell command -v npm),$(VENV)/.node) ## Test what users rely on; TEST_PROCESSES=2 at a time, ARGS="-k name" for some
ifdef ARGS
	@$(PYTEST) $(ARGS)
else
	@$(PYTEST) -n $(TEST_PROCESSES) --dist worksteal -m "not long"
endif

.PHONY: test-long
test-long: $(VENV)/.dev ## Run the other tests: fault rounds, fuzzing, guides, benchmarks, and those of the mutation run
	@$(PYTEST) -n $(TEST_PROCESSES) --dist worksteal -m long

.PHONY: faults
faults: $(VENV)/.dev ## Break a running installation at random moments, and check it; ROUNDS=200 SEED=1 ARGS="--only Redis"
	@$(BIN)/python -m tests.faults.rounds $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: fuzz
fuzz: $(VENV)/.dev ## Send random requests by the OpenAPI description; ARGS="--seconds 1800 --seed 7"
	@$(BIN)/python -m tests.fuzz.openapi $(ARGS)

.PHONY: mutants
mutants: $(VENV)/.dev ## Put faults into a copy of the code; the tests must find each; ARGS="store/live.py"
	@$(BIN)/python -m tests.mutants $(ARGS)

# What is measured beside ours and needed by nothing else is in no lock file.
.PHONY: bench-training
bench-training: $(VENV)/.torch ## Measure training steps beside Keras and torch; ARGS="--quick"
	@$(BIN)/python -m benchmarks.training $(ARGS)

.PHONY: bench-serving
bench-serving: $(VENV)/.torch ## Measure completions beside Keras and torch; ARGS="--quick"
	@$(BIN)/python -m benchmarks.serving $(ARGS)

.PHONY: bench-quality
bench-quality: $(VENV)/.torch ## Measure loss against seconds beside char-rnn; ARGS="--text file"
	@$(BIN)/python -m benchmarks.quality $(ARGS)

.PHONY: bench-mixture
bench-mixture: $(VENV)/.serve ## Bits of the mixture, its experts and baselines, by seconds; ARGS="FILE --seconds 10 60"
	@$(BIN)/python -m benchmarks.mixture $(ARGS)

.PHONY: base-models
base-models: $(VENV)/.serve ## Train the base models again; ARGS="FOLDER-OF-CLONES english"
	@$(BIN)/python -m benchmarks.base_models $(ARGS)

.PHONY: bench-mixture-latency
bench-mixture-latency: $(VENV)/.serve ## What the mixture adds to a keystroke, paired; ARGS="--networks 2x256"
	@$(BIN)/python -m benchmarks.mixture_latency $(ARGS)

.PHONY: bench-lesson6
bench-lesson6: $(VENV)/.serve ## Train every network of the lecture notes; ARGS="nietzsche.txt --only nth_char"
	@$(BIN)/python -m benchmarks.lesson6 $(ARGS)

.PHONY: bench-presets
bench-presets: $(VENV)/.serve ## Preset auto compared with every fixed preset; ARGS="--seconds 10 30 --recipes tiny small"
	@$(BIN)/python -m benchmarks.presets $(ARGS)

.PHONY: bench-mixing
bench-mixing: $(VENV)/.serve ## What a second text and a teacher are worth, over seeds; ARGS="--seeds 3"
	@$(BIN)/python -m benchmarks.mixing $(ARGS)

.PHONY: bench-lm-eval
bench-lm-eval: $(VENV)/.serve $(VENV)/.lm-eval ## Compare our bits with lm-evaluation-harness's; ARGS="--text file"
	@$(BIN)/python -m benchmarks.lm_eval $(ARGS)

.PHONY: bench-anomaly
bench-anomaly: $(VENV)/.torch ## Measure how odd lines are found, and how fast; ARGS="--sets bgl http"
	@$(BIN)/python -m benchmarks.anomaly $(ARGS)

.PHONY: bench-logs
bench-logs: $(VENV)/.serve ## What is flagged of later lines of logs, alerts, and planted damage found; DIR=folder ARGS="--seconds 60"
	@$(BIN)/python -m benchmarks.logs $(DIR) $(ARGS)

.PHONY: bench-web
bench-web: $(VENV)/.serve ## Strange requests hidden in a web server's log, five seeds, and a month that changes; ARGS="--seconds 60"
	@$(BIN)/python -m benchmarks.web_trial $(ARGS)

.PHONY: bench-outage
bench-outage: $(VENV)/.dev ## Kill APIs, workers, Redis and HAProxy under load: is anything lost? ARGS="--lines 10000"
	@$(BIN)/python -m benchmarks.outage $(ARGS)

.PHONY: bench-load
bench-load: $(VENV)/.dev ## 256 clients for ten minutes during a training job; ARGS="--clients 64 --timeout-ms 300"
	@$(BIN)/python -m benchmarks.load $(ARGS)

.PHONY: bench-capacity
bench-capacity: $(VENV)/.serve ## What a deployment needs for so many completions per second; ARGS="--network 2x256"
	@$(BIN)/python -m benchmarks.capacity $(ARGS)

.PHONY: bench-console-file
bench-console-file: $(VENV)/.dev ## Open a log of 200 MB in the console: speed and memory; ARGS="--megabytes 20"
	@$(BIN)/python -m benchmarks.console_file $(ARGS)

.PHONY: bench-corpus
bench-corpus: $(VENV)/.serve ## A large corpus: CPU time and memory of upload and job start; ARGS="--gigabytes 10 --kind records"
	@$(BIN)/python -m benchmarks.corpus $(ARGS)

.PHONY: bench-suggestions
bench-suggestions: $(VENV)/.serve ## Is the intended item among those shown? ARGS="LIST --queries LIST --lines 1000000", ARGS="--http 2x256"
	@$(BIN)/python -m benchmarks.suggestions $(ARGS)

.PHONY: bench-events
bench-events: $(VENV)/.serve ## Events of suggestions next to completions, in rounds; ARGS="--rounds 20"
	@$(BIN)/python -m benchmarks.events $(ARGS)

.PHONY: bench-keystrokes
bench-keystrokes: $(VENV)/.serve ## Keys saved by suggestions, compared with n-grams; ARGS="--seconds 120"
	@$(BIN)/python -m benchmarks.keystrokes $(ARGS)

.PHONY: bench-keystroke-latency
bench-keystroke-latency: $(VENV)/.dev ## From a key to painted ghost text in a browser; ARGS="--keys 200"
	@$(BIN)/python -m benchmarks.keystroke_latency $(ARGS)

.PHONY: bench-batch
bench-batch: $(VENV)/.dev ## Lines per second of nextchar batch with 1, 2, 4 actors of Ray; ARGS="--engines local"
	@$(BIN)/python -m benchmarks.batch $(ARGS)

.PHONY: bench-batch-hosts
bench-batch-hosts: $(VENV)/.dev ## A batch on a Ray cluster of three hosts, one of which is killed; needs root; ARGS="--megabytes 20"
	@$(BIN)/python -m benchmarks.batch_hosts $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## Check style, formatting, types and who imports whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: docs
docs: $(VENV)/.dev ## Build the documentation's site into build/site; it opens without a server
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open file://$(CURDIR)/build/site/index.html in a browser; it needs no server"

# A package that the database does not know is a failure, too: without --strict nothing would be checked, silently.
.PHONY: audit
audit: $(VENV)/.dev ## Look for known vulnerabilities in all locked packages; needs their databases
	@status=0; for role in $(ROLES) uv; do \
	  echo "requirements/$$role.txt"; \
	  $(BIN)/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
	    -r requirements/$$role.txt || status=1; \
	done; \
	if command -v npm >/dev/null; then \
	  echo "tests/node/package.json"; mkdir -p $(VENV)/node-audit && cp tests/node/package.json $(VENV)/node-audit/ && \
	  (cd $(VENV)/node-audit && npm install --package-lock-only --no-fund --silent && npm audit) || status=1; \
	fi; exit $$status

.PHONY: release
release: $(VENV)/.dev ## Build a release with images, SBOM and SHA256SUMS into dist/; VERSION=0.3.0 cuts that version first
	@$(BIN)/python -m deploy.release $(VERSION)

.PHONY: sbom
sbom: $(VENV)/.dev ## Write the software bills of materials (CycloneDX) into build/sbom/
	@$(BIN)/python -m deploy.release sbom

.PHONY: dist
dist: $(VENV)/.dev ## Build the wheel and the source distribution into dist/
	@$(BIN)/python -m build --no-isolation --outdir dist .

.PHONY: format
format: $(VENV)/.dev ## Format the code and mend what can be mended by itself
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

LOCK = $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
  --custom-compile-command "make lock" --python-version 3.11 $(UPGRADE)

.PHONY: lock
lock: | $(VENV)/.made ## Write requirements/*.txt anew from pyproject.toml (keeps versions that still fit)
	@$(GET_UV)
	@for role in $(ROLES); do \
	  extra=; test $$role != api || extra="--extra mcp"; \
	  $(LOCK) --extra $$role $$extra --output-file requirements/$$role.txt pyproject.toml || exit 1; \
	done
	@echo uv | $(LOCK) --output-file requirements/uv.txt -

.PHONY: clean
clean: ## Remove .venv and caches; data/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist clients/python/*.egg-info
	find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +

# A stamp is newer than the files it was made from, or the packages are installed again.
$(VENV)/.serve $(VENV)/.dev: $(VENV)/.%: requirements/%.txt pyproject.toml | $(VENV)/.made
	@echo "installing $< (TensorFlow is large; this happens once)"
	@$(GET_UV) || true
	@index="$(PIP_INDEX)"; $(UV) pip install --quiet --no-config --require-hashes $${index:+--default-index "$$index"} \
	  --python $(BIN)/python -r $< || $(BIN)/python $(PIP_INSTALL) -r $<
	@$(BIN)/python $(PIP_EDITABLE)
	@$(BIN)/python $(COMPILE_ALL) || true
	@touch $@ $(VENV)/.serve # dev.txt holds all of serve.txt, at the same versions

# Tests that need a package that is not there are skipped, each by the package's name.
$(VENV)/.node: tests/node/package.json | $(VENV)/.made
	@mkdir -p $(VENV)/node && cp $< $(VENV)/node/
	@npm install --prefix $(VENV)/node --no-package-lock --no-audit --no-fund --silent && touch $@ || \
	  echo "npm could not install what tests/node/package.json names; going on without it" >&2

$(VENV)/.torch: | $(VENV)/.serve
	@echo "installing torch, for benchmarks (large; this happens once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch>=2.9"
	@touch $@

# It wants other versions of what we use, so it has a virtual environment of its own.
$(VENV)/.lm-eval: | $(VENV)/.made
	@echo "installing lm-evaluation-harness, for a benchmark"
	@$(BIN)/python -m venv $(VENV)/lm-eval
	@$(VENV)/lm-eval/bin/python -m pip install --quiet --disable-pip-version-check "lm-eval[api]>=0.4.11"
	@touch $@

# Some machines have a `python3.13` that only prints how to install one: believe what runs.
$(VENV)/.made:
	@set -e; \
	if $(BIN)/python -c 'import pip; $(IS_SUPPORTED)' >/dev/null 2>&1; then touch $@; exit 0; fi; \
	for python in $(or $(PYTHON),$(PYTHONS)); do \
	  if "$$python" -c '$(IS_SUPPORTED)' >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv $(VENV); touch $@; exit 0; \
	  fi; \
	done; \
	echo "nextchar needs Python 3.11, 3.12 or 3.13 with venv (on Debian: apt install python3-venv);" \
	  "tried: $(or $(PYTHON),$(PYTHONS))" >&2; exit 1
