# Two commands do everything on a fresh machine with git and Python 3.10 to 3.12:
#   make reproduce   the main job, from the embedded photographs, on a CPU
#   make test        linters, type checks and all tests, the slow ones included
# `make minimal` tests the base install, without extras, on Python 3.10 to 3.13.
VENV ?= .venv
OUT ?= figures/quick
BIN := $(VENV)/bin
STUDIES := toys table1 table2 table3 figure3
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))

.PHONY: reproduce test lint types layers unit minimal faults notebooks docs links fuzz long-runs bench bench-quick bench-lock install install-test lock clean

# A clone comes with the published results, which --resume would take for done: the first time they make way for its own.
reproduce: install
	@test -d $(OUT)/runs || { rm -rf $(addprefix $(OUT)/,$(STUDIES)); mkdir -p $(OUT)/runs; }
	$(BIN)/gradlab run $(STUDIES) --profile quick --out $(OUT) --resume
	$(BIN)/gradlab report $(OUT)

# mypy takes one core for half a minute: it runs beside the rest.
test: install-test
	$(MAKE) -j 2 --no-print-directory lint layers types unit

lint: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-test
	$(BIN)/mypy

layers: install-test
	$(BIN)/lint-imports

# Two workers of one thread each: more threads than cores are much slower, and where a test takes two, the one that waits
# leaves its core to others. Quick suite: $(BIN)/pytest -m "not slow".
unit: install-test
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/pytest

# Sixty trials: kill a run at a random moment, resume it and compare it with an undisturbed run (docs/reliability.md).
faults: install-test
	$(BIN)/python tests/trials/faults.py --trials 60 --out figures/reliability/kills

# The documentation, in docs/_build/html; needs no network. Every warning of Sphinx is an error.
docs: install-test
	$(BIN)/sphinx-build -W -n --keep-going -q -b html docs docs/_build/html
	@echo "wrote docs/_build/html/index.html"

# Asks every site that the documentation links to; needs a network.
links: install-test
	$(BIN)/sphinx-build -q -b linkcheck docs docs/_build/linkcheck
# Damaged files of every kind, for five minutes, and 10^9 toy draws: figures/reliability (docs/reliability-input.md).
fuzz: install-test
	$(BIN)/python tests/trials/fuzz.py --seconds 300 --seed 0

long-runs: install-test
	$(BIN)/python tests/trials/long_runs.py --recorder-draws 1e7 --moment-draws 1e9 --toy-draws 1e9 --resume

install: $(VENV)/installed
install-test: $(VENV)/installed-test

# Executes the teaching notebooks anew, from the halves that are edited (studies/notebooks/*.py); pytest runs them too.
notebooks: install-test
	$(BIN)/python studies/notebooks/_pair.py

# What studies need, from the lock file, with hashes. uv installs it in a fraction of pip's time; pip installs uv.
$(VENV)/installed: requirements.lock requirements-uv.lock pyproject.toml setup.py
	@python=; for p in $(or $(PYTHON),python3 python3.12 python3.11 python3.10); do \
	  if command -v $$p >/dev/null 2>&1 && $$p -c '$(SUPPORTED)' 2>/dev/null; then python=$$p; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "error: gradlab needs Python 3.10, 3.11 or 3.12 (CompressAI has no wheels beyond), but found $$($(or $(PYTHON),python3) --version 2>&1): install one, or name it with make PYTHON=/path/to/python3.12" >&2; exit 2; fi; \
	echo "creating $(VENV) with $$($$python --version)"; $$python -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

# All extras: what tests, linters and the documentation need on top.
$(VENV)/installed-test: $(VENV)/installed requirements-test.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-test.lock
	@touch $@

# The base install: builds sdist and wheel, installs each without extras, and runs the tests that need none of them outside
# of the repository. Any Python from 3.10 to 3.13: make minimal PYTHON=python3.13
MINIMAL ?= .venv-minimal
minimal: $(MINIMAL)/installed
	rm -rf build/dist build/lib *.egg-info
	$(MINIMAL)/bin/uv build --quiet --python $(MINIMAL)/bin/python --no-build-isolation --out-dir build/dist .
	sh tests/minimal.sh $(MINIMAL)/bin build/dist

$(MINIMAL)/installed: requirements-minimal.lock requirements-uv.lock
	$(or $(PYTHON),python3) -m venv --clear $(MINIMAL)
	$(MINIMAL)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	$(MINIMAL)/bin/uv pip install --quiet --python $(MINIMAL)/bin/python --require-hashes -r requirements-minimal.lock
	@touch $@

# Speed, side by side with the peers, which have an environment of their own: benchmarks/NOTES.md. A run that was cut
# off goes on where it stopped. TEST_IMAGES=DIR evaluates on those images; ARGS go to benchmarks/run.py.
BENCH := benchmarks/.venv
bench: install $(BENCH)/installed
	$(BIN)/python benchmarks/run.py --out figures/bench $(if $(TEST_IMAGES),--test-images $(TEST_IMAGES)) $(ARGS)

# Small sizes: shows that every case and every peer runs; what it prints says little about speed.
bench-quick: install $(BENCH)/installed
	$(BIN)/python benchmarks/run.py --quick --out build/bench $(ARGS)

$(BENCH)/installed: benchmarks/requirements.lock $(VENV)/installed
	$(BIN)/python -m venv --clear $(BENCH)
	$(BIN)/uv pip install --quiet --python $(BENCH)/bin/python --require-hashes -r benchmarks/requirements.lock
	@touch $@

# torch, numpy and CompressAI as in requirements.lock, so that the peers run on what gradlab runs on.
bench-lock: install
	@mkdir -p build && grep -E '^[a-z].*==' requirements.lock | sed 's/ *\\$$//' > build/constraints.txt
	$(COMPILE) "make bench-lock" benchmarks/requirements.txt -c build/constraints.txt --no-annotate -o benchmarks/requirements.lock

# Renew the lock files from pyproject.toml, each for all versions of Python: all extras, what studies need of it, the base
# install with pytest, and uv.
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.10 --generate-hashes --quiet --custom-compile-command
lock: install
	$(COMPILE) "make lock" pyproject.toml --all-extras -o requirements-test.lock
	$(COMPILE) "make lock" pyproject.toml --extra studies -c requirements-test.lock -o requirements.lock
	printf 'hypothesis\npytest\npytest-xdist\n' | $(COMPILE) "make lock" pyproject.toml - -o requirements-minimal.lock
	echo uv | $(COMPILE) "make lock" - -o requirements-uv.lock

clean:
	rm -rf $(VENV) $(MINIMAL) $(BENCH) build dist docs/_build docs/reference *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
