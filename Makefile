# Everything runs in .venv, which is made from nothing but Python and pip; constraints.txt says what goes into it. The
# sessions of `make test-versions` have environments of their own, in .venvs.
# `make help` lists the targets: it prints the comments that begin with ##, beside them.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
WORKERS ?= 2
VENV ?= .venv
VENVS ?= .venvs
SESSIONS ?= oldest lightning25 pinned python312 newest

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --constraint $(CONSTRAINTS)
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS)

# One thread of torch per test process: the models are tiny, and processes that share cores otherwise fight for them.
test test-slow test-browser test-all test-gpu bench coverage mutants: export OMP_NUM_THREADS = 1

.NOTPARALLEL:  # two pips must not write to .venv at once
.PHONY: help demo pictures test test-slow test-browser test-all test-versions test-third-party test-gpu bench coverage mutants docs sdist lint format clean

help:  ## this list; durations: on two cores, with .venv made
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1\t\2/p' Makefile | expand -t 23

demo: $(VENV)/ready-examples  ## one line beside other learning rates, on digits; 1 minute
	$(BIN)/python examples/digits.py

pictures: $(VENV)/ready-examples  ## the README's pictures; needs Chromium; 2 minutes
	$(BIN)/python examples/pictures/make.py
	$(BIN)/python examples/pictures/tensorboard_pages.py

test: $(VENV)/ready-test  ## the quick tests; minutes
	$(PYTEST) -m "not slow and not browser"

test-slow: $(VENV)/ready-test  ## several processes, DeepSpeed itself; many minutes
	$(PYTEST) -m slow

# In one process: two would each train what the browser is to show.
test-browser: $(VENV)/ready-test  ## what TensorBoard shows; needs Chromium; 1 minute
	$(PYTEST) --numprocesses 0 -m browser

test-all: $(VENV)/ready-test  ## all of these three
	$(PYTEST)

# One session: `make test-versions SESSIONS=oldest`. A Python that is not there is looked for among pyenv's.
PYTHON_OF_oldest := 3.10
PYTHON_OF_lightning25 := 3.11
PYTHON_OF_pinned := 3.11
PYTHON_OF_python312 := 3.12
PYTHON_OF_newest := 3.13
CONSTRAINTS_OF_pinned := constraints.txt
CONSTRAINTS_OF_python312 := constraints.txt

test-versions: $(SESSIONS:%=session-%)  ## the quick tests in five sessions; an hour

# Packages of other years warn about each other when they are imported; that says nothing about this one.
session-%:
	@for python in python$(PYTHON_OF_$*) $$HOME/.pyenv/versions/$(PYTHON_OF_$*).*/bin/python; do \
	  "$$python" --version > /dev/null 2>&1 && break || python=; done; \
	if [ -z "$$python" ]; then echo "Session $*: skipped, there is no Python $(PYTHON_OF_$*)"; exit; fi; \
	echo "Session $*:"; \
	PYTEST_ADDOPTS="$(if $(CONSTRAINTS_OF_$*),,-W default) $$PYTEST_ADDOPTS" $(MAKE) --no-print-directory test \
	  VENV=$(VENVS)/$* PYTHON="$$python" CONSTRAINTS=$(or $(CONSTRAINTS_OF_$*),constraints/$*.txt)

test-third-party: $(VENVS)/third-party/ready  ## other people's packages; 10 minutes
	OMP_NUM_THREADS=1 $(VENVS)/third-party/bin/python -m pytest -m third_party tests/third_party

test-gpu: PYTHON_WITH_GPU = $(if $(wildcard $(VENV)/ready-test),$(BIN)/python,$(PYTHON))
# Warnings are none of its errors: versions of torch and Lightning there are those that are there.
test-gpu:  ## what needs a GPU, in .venv or with PYTHON; minutes
	PYTHONPATH=. $(PYTHON_WITH_GPU) -m pytest -W default -m gpu tests/gpu tests/range_test/test_loss_reader.py \
	  tests/integration/test_compiled_step.py tests/integration/test_strategies.py

bench: $(VENV)/ready-test  ## what a step costs; JSON in build/benchmarks; minutes
	for name in scheduler_step fit_loop range_test_cost snapshot_memory compile_and_import gpu_step; do \
	  $(BIN)/python tests/benchmarks/$$name.py --out build/benchmarks || exit 1; done

coverage: $(VENV)/ready-coverage  ## lines that the quick tests do not reach; minutes
	$(PYTEST) -m "not slow and not browser" --cov=lightning_lrsched --cov-branch --cov-report=term-missing:skip-covered

mutants: $(VENV)/ready-mutants  ## small mistakes: does a test notice each?; minutes
	rm -rf mutants
	$(BIN)/python tests/mutants.py --max-children $(WORKERS)

# The source folder is the repository: README.md and others are pages as they stand. --fresh-env: what is imported for
# the reference is no dependency that Sphinx would know of.
docs: $(VENV)/ready-docs  ## the documentation, as a site in build/docs; 1 minute
	$(BIN)/python -m sphinx -W --keep-going -n -q --fresh-env -c docs . build/docs

sdist: $(VENV)/ready-test  ## what a release uploads, in dist; seconds
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

lint: $(VENV)/ready-lint  ## ruff, mypy, direction of imports, spelling; 1 minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/ready-lint  ## repairs what ruff can; seconds
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## removes all that make made, .venv included; seconds
	rm -rf .venv* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage \
	  build dist demo_output lightning_logs checkpoints mutants
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An empty file marks each finished step, so that a failed one is repeated and a finished one is not.
# torch comes first and alone: nothing that needs it can bring another build than the pinned one, and the largest
# download is seen to happen.
$(VENV)/ready-torch: $(CONSTRAINTS)
	@echo "Making $(VENV) with $$($(PYTHON) --version); torch first, this can take a few minutes ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch
	@touch $@

$(VENVS)/third-party/ready: tests/third_party/requirements.txt pyproject.toml
	@echo "Making $(@D) with $$($(PYTHON) --version); this can take many minutes ..."
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip --disable-pip-version-check install -qq --requirement $< --editable .
	@touch $@

# ready-test, ready-lint, ...: the package itself, editable, with that extra.
$(VENV)/ready-%: $(VENV)/ready-torch pyproject.toml $(CONSTRAINTS)
	@echo "Installing lightning-lrsched[$*] ..."
	@$(PIP) --editable ".[$*]"
	@touch $@
