# One environment for everything. uv is needed: pip cannot apply overrides.txt (see docs/adr/0001-one-environment.md).
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
FIND_LINKS := $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)")

.PHONY: setup test test-slow lint docs demo clean conformance faults networks matrix zoo cases fuzz mutants \
        bench-pipeline bench-children bench-compression bench-conversion bench-intake bench-runtime bench-validation
.DEFAULT_GOAL := setup

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt overrides.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q uv
	$(VENV)/bin/uv pip install -q --python $(PY) --compile-bytecode $(FIND_LINKS) \
	  -c constraints.txt --override overrides.txt -e '.[all,dev,docs]'
	touch $@

test: setup
	$(PY) -m pytest -n 2 -m "not slow"

# What takes minutes (with MINUTES as much as begins in that time): legacy loaders, emulated cores, recorded figures.
test-slow: setup
	$(PY) -m pytest -n 2 -m slow $(if $(MINUTES),--minutes $(MINUTES))
	$(PY) benchmarks/conformance.py --check

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# The documentation as a site, below site/; a warning is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(VENV)/bin/mkdocs build --strict -q

demo: setup
	$(PY) -m flows.demo

bench-compression: setup
	$(PY) benchmarks/compression.py $(if $(FAST),--fast)

# Benchmarks write JSON under benchmarks/results.
bench-pipeline: setup
	$(PY) benchmarks/pipeline.py

bench-conversion: setup
	$(PY) benchmarks/conversion.py

bench-children: setup
	PYTHONPATH=. $(PY) benchmarks/children.py

bench-intake: setup
	PYTHONPATH=. $(PY) benchmarks/intake.py

bench-runtime: setup
	$(PY) benchmarks/runtime.py

bench-validation: setup
	$(PY) benchmarks/validation.py

conformance: setup
	$(PY) benchmarks/conformance.py

faults: setup
	$(PY) benchmarks/faults.py

# About 22 minutes, mostly waiting: five minutes without network, five with, and so on.
networks: setup
	$(PY) benchmarks/networks.py

matrix: setup
	$(PY) benchmarks/matrix.py

# FAST=1: seven small models without the peers, minutes; all of them: hours, resumed where it stopped.
zoo: setup
	PYTHONPATH=. $(PY) benchmarks/zoo.py $(if $(FAST),--fast)

# Small models that once failed, from ../shared/cases; with MINUTES, as many as begin in that time.
cases: setup
	PYTHONPATH=. $(PY) benchmarks/cases.py $(if $(MINUTES),--minutes $(MINUTES))

# COUNT inputs for each guard that reads files of others; a minute or so for each 2,000.
fuzz: setup
	PYTHONPATH=. $(PY) benchmarks/fuzz.py --count $(or $(COUNT),20000)

# Half an hour and more; with MINUTES, as many files as begin in that time.
mutants: setup
	PYTHONPATH=. $(PY) benchmarks/mutants.py $(if $(MINUTES),--minutes $(MINUTES))

clean:
	rm -rf $(VENV)
