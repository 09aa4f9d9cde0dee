# Everything runs in .venv, which is made from nothing but Python and pip; constraints.txt says what goes into it.
#   make demo       the example           make test       the test suite        make lint     the checks
#   make format     repair what ruff can  make test-all   + slow, browser       make clean    remove what make made
#   make docs       the API reference, as a site in build/docs; a warning is an error
#   make pictures   the README's pictures; those of TensorBoard need Chromium
#   make bench      what steps cost: tables, and the same figures as JSON in build/benchmarks
#   make test-gpu   the tests that need a GPU; with PYTHON as it is where there is no .venv: no package index is needed
#   make coverage   the lines that the quick suite does not reach
#   make mutants    mistakes made by a tool, each of which a test must notice; some minutes
#   make sdist      what a release uploads: sdist and wheel, in dist

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
WORKERS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --constraint $(CONSTRAINTS)
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS)

# One thread of torch per test process: the models are tiny, and processes that share cores otherwise fight for them.
test test-slow test-browser test-all test-gpu bench coverage mutants: export OMP_NUM_THREADS = 1

.NOTPARALLEL:  # two pips must not write to .venv at once
.PHONY: demo pictures test test-slow test-browser test-all test-gpu bench coverage mutants docs sdist lint format clean

demo: .venv/ready-examples
	$(BIN)/python examples/digits.py

pictures: .venv/ready-examples
	$(BIN)/python examples/pictures/make.py
	$(BIN)/python examples/pictures/tensorboard_pages.py

test: .venv/ready-test
	$(PYTEST) -m "not slow and not browser"

test-slow: .venv/ready-test
	$(PYTEST) -m slow

test-browser: .venv/ready-test  # in one process: two would each train what the browser is to show
	$(PYTEST) --numprocesses 0 -m browser

test-all: .venv/ready-test
	$(PYTEST)

test-gpu: PYTHON_WITH_GPU = $(if $(wildcard .venv/ready-test),$(BIN)/python,$(PYTHON))
test-gpu:  # warnings are none of its errors: versions of torch and Lightning there are those that are there
	PYTHONPATH=. $(PYTHON_WITH_GPU) -m pytest -W default -m gpu tests/gpu tests/range_test/test_loss_reader.py \
	  tests/integration/test_compiled_step.py tests/integration/test_strategies.py

bench: .venv/ready-test
	for name in scheduler_step fit_loop range_test_cost snapshot_memory compile_and_import gpu_step; do \
	  $(BIN)/python tests/benchmarks/$$name.py --out build/benchmarks || exit 1; done

coverage: .venv/ready-coverage
	$(PYTEST) -m "not slow and not browser" --cov=lightning_lrsched --cov-branch --cov-report=term-missing:skip-covered

mutants: .venv/ready-mutants
	rm -rf mutants
	$(BIN)/python tests/mutants.py --max-children $(WORKERS)

# The source folder is the repository: README.md and others are pages as they stand. --fresh-env: what is imported for
# the reference is no dependency that Sphinx would know of.
docs: .venv/ready-docs
	$(BIN)/python -m sphinx -W --keep-going -n -q --fresh-env -c docs . build/docs

sdist: .venv/ready-test
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

lint: .venv/ready-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: .venv/ready-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist lightning_logs demo_output build/docs mutants .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An empty file marks each finished step, so that a failed one is repeated and a finished one is not.
# torch comes first and alone: nothing that needs it can bring another build than the pinned one, and the largest
# download is seen to happen.
.venv/ready-torch: $(CONSTRAINTS)
	@echo "Making .venv with $$($(PYTHON) --version); torch first, this can take a few minutes ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) torch
	@touch $@

# ready-test, ready-lint, ...: the package itself, editable, with that extra.
.venv/ready-%: .venv/ready-torch pyproject.toml $(CONSTRAINTS)
	@echo "Installing lightning-lrsched[$*] ..."
	@$(PIP) --editable ".[$*]"
	@touch $@
