# From a fresh checkout to a fitted potential or a finished test run; needs Python 3.11 or newer and make.
# The interpreter that makes .venv can be given: make test PYTHON=/path/to/python3.12

VENV   := .venv
RUN    := $(VENV)/bin/python
PIP    := $(RUN) -m pip install --quiet --disable-pip-version-check
# By a line in site-packages: setuptools' other way comes after whatever folder named eqpot Python was started in.
EDITABLE := --config-settings editable_mode=compat --editable
EQPOT  := $(RUN) -m eqpot
DEMO   := demo
SAMPLE := data_tools/ethanol.h5

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
            $$p -c '$(NEW_ENOUGH)' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: help demo test test-fast test-sim test-gpu sanitize fuzz kills lint format bench docs docs-pictures clean

help:
	@echo "make demo       fit the ethanol sample, evaluate it on frames kept out, draw the pictures (some five minutes on two cores)"
	@echo "make test       the whole test suite (under half an hour on two cores)"
	@echo "make test-fast  the tests that take no more than a few seconds each (one to two minutes)"
	@echo "make test-sim   the CUDA kernels in Numba's simulator (part of make test; under 8 minutes)"
	@echo "make test-gpu   the whole suite on a GPU, whose libraries it installs (CUDA_EXTRA=cuda12 for older drivers)"
	@echo "make sanitize   the small tests on a GPU under compute-sanitizer: memory, races, numbers never written"
	@echo "make fuzz       damaged files and odd options to every command, 10,000 cases (half an hour on two cores)"
	@echo "make kills      every kind of run killed, stopped, on a full disk, often (a quarter of an hour)"
	@echo "make lint       ruff's check and format check;  make format  applies both"
	@echo "make bench      errors on liquid water against the number of training frames (about an hour)"
	@echo "make docs       the course as a site, docs/_build/index.html;  make docs-pictures  draws its pictures anew"
	@echo "make clean      remove .venv, ./$(DEMO) and everything that was built"

demo: $(VENV)/.installed
	rm -rf $(DEMO) && mkdir $(DEMO)
	$(EQPOT) data split $(SAMPLE) --train 800 --valid 50 --test 150 --seed 0 -o $(DEMO)/ethanol
	@echo "Compiling the kernels: some minutes the first time, seconds from then on"
	@$(EQPOT) fit $(DEMO)/ethanol_train.h5 --n-train 5 --n-valid 1 --max-epochs 1 -o $(DEMO)/compile >/dev/null
	$(EQPOT) fit $(DEMO)/ethanol_train.h5 --valid $(DEMO)/ethanol_valid.h5 --max-time 2m --seed 0 -o $(DEMO)/run
	$(EQPOT) eval $(DEMO)/run/model.h5 $(DEMO)/ethanol_test.h5 --json $(DEMO)/errors.json --plots $(DEMO)/plots
	@echo "Pictures:"; ls $(DEMO)/run/*.png $(DEMO)/plots/*.png | sed 's/^/  /'

# Whole files to each of up to four processes: tests of one file share the kernels that they compile first.
PYTEST := -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed-test
	$(RUN) $(PYTEST)
	@$(MAKE) --no-print-directory test-sim

# A process of its own: Numba looks for the simulator once, when it is imported.
SIMULATED := tests/test_operators.py tests/test_golden.py tests/test_cuda.py tests/test_by_blocks.py tests/test_bench_gpu.py "tests/test_docs.py::test_code_runs[10_new_operator]"

test-sim: $(VENV)/.installed-test
	NUMBA_ENABLE_CUDASIM=1 $(RUN) $(PYTEST) $(SIMULATED)

CUDA_EXTRA := cuda

test-gpu: $(VENV)/.installed-test
	$(PIP) $(EDITABLE) '.[test,$(CUDA_EXTRA)]'
	$(RUN) $(PYTEST)

# Libraries probe the driver, so an error that its API returns is no finding. Each array has an allocation of
# its own, instead of a piece of CuPy's pool, so that a step over its end is one.
SANITIZER := compute-sanitizer --error-exitcode 1 --target-processes all --launch-timeout 0 --report-api-errors no
UNPOOLED  := import sys, cupy, pytest; cupy.cuda.set_allocator(None); sys.exit(pytest.main(sys.argv[1:]))

sanitize: $(VENV)/.installed-test
	@command -v compute-sanitizer >/dev/null || { echo "error: no compute-sanitizer found; it comes with the CUDA toolkit" >&2; exit 1; }
	$(PIP) $(EDITABLE) '.[test,$(CUDA_EXTRA)]'
	for tool in memcheck racecheck initcheck; do \
	  $(SANITIZER) --tool $$tool $(RUN) -c '$(UNPOOLED)' tests/test_cuda.py -m "not slow" || exit 1; \
	done

# FUZZ takes the options of tests/fuzz.py: make fuzz FUZZ="--cases 500 --only model --keep failures"
FUZZ :=

fuzz: $(VENV)/.installed-test
	$(RUN) tests/fuzz.py $(FUZZ)

kills: $(VENV)/.installed-test
	EQPOT_KILLS=20 $(RUN) -m pytest tests/test_kills.py

test-fast: $(VENV)/.installed-test
	$(RUN) $(PYTEST) -m "not slow"

lint: $(VENV)/.installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(VENV)/.installed-test
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(VENV)/.installed
	$(RUN) bench/data_efficiency.py

docs: $(VENV)/.installed-docs
	$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "Read it: docs/_build/index.html"

docs-pictures: $(VENV)/.installed
	$(RUN) docs/figures.py

clean:
	rm -rf $(VENV) $(DEMO) build dist docs/_build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second run quick; a changed pyproject.toml installs again.
$(VENV)/.installed: pyproject.toml | $(VENV)/.made
	$(PIP) $(EDITABLE) .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/.made
	$(PIP) $(EDITABLE) '.[test,docs]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-docs

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/.made
	$(PIP) $(EDITABLE) '.[docs]'
	@touch $@ $(VENV)/.installed

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { echo "error: $(PYTHON) is not Python 3.11 or newer: $$($(PYTHON) --version 2>&1 | tail -n 1)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv module (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
