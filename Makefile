# make demo   a small CNN on real images, its conv layers' learning predicted and observed
# make test   the tests
# make lint   ruff, mypy and the contracts between packages
# make coverage  lines and branches of both packages that the tests reach; under 95 % is an error
# make bench  speed of both packages on this machine, into results/benchmarks
# make docs   the site, into build/html; a warning is an error
# make fuzz   20,000 hostile calls of everything public
# make torture  50 runs killed, starved or damaged at random moments; nothing may be lost
# make dist   wheel and sdist, each installed into an empty environment
# make plotly fetches again the library of the inspection's page (needs npm)
# make constraints  writes constraints.txt from what .venv holds (every extra), once the tests pass
# Each sets itself up in .venv with the versions in constraints.txt, or with the newest that
# pyproject.toml allows: make test CONSTRAINTS= VENV=build/newest
# Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
DEMO := results/demo
CONSTRAINTS ?= constraints.txt
KERNEL_TESTS := $(addprefix tests/adaptive/test_,filters.py algorithms.py four.py adapt_and_delay.py leaky_nlms.py proportionate.py)

.PHONY: demo test lint coverage bench docs fuzz torture dist constraints plotly clean
.DEFAULT_GOAL := demo

# The stamp is as old as the last complete installation; only what it asked for makes it stale,
# since the packages themselves are installed in place.
$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
	  echo "naturalmodes needs Python 3.11, 3.12 or 3.13, and '$(PYTHON)' is not:" \
	       "`$(PYTHON) --version 2>&1`. Name another, as in: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' comes without venv or ensurepip, which set-up needs." \
	       "On Debian and Ubuntu: apt install python3-venv. Or name another, as in:" \
	       "make PYTHON=python3.12"; exit 1; }
	@echo "== Set-up, 1 of 2: virtual environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "== Set-up, 2 of 2: packages (torch is large; the first time takes minutes)"
	@$(BIN)/python -m pip install --disable-pip-version-check \
	  $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[dev]'
	@touch $@

demo: $(READY)
	@echo "== Study conv-modes, preset laptop, into $(DEMO)"
	@$(BIN)/python -m studies run conv-modes --preset laptop --out $(DEMO)
	@echo "== Done. Open $(DEMO)/report.html in a browser; the numbers are in $(DEMO)/summary.json"

test: $(READY)
	@echo "== Tests, 1 of 2: all of them, and the examples in the docstrings"
	@$(BIN)/python -m pytest -n 2 tests --doctest-modules adaptive cnnbridge studies
	@echo "== Tests, 2 of 2: the kernels once more as plain Python"
	@NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest $(KERNEL_TESTS)

lint: $(READY)
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== mypy"
	@$(BIN)/mypy
	@echo "== contracts between packages"
	@$(BIN)/lint-imports

coverage: $(READY)
	@echo "== Coverage, 1 of 2: the tests of both packages"
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m pytest -n 2 --cov --cov-report= --cov-fail-under=0 tests/adaptive tests/cnnbridge tests/fuzz --doctest-modules adaptive cnnbridge
	@echo "== Coverage, 2 of 2: the kernels as plain Python"
	@NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest --cov --cov-append --cov-report= --cov-fail-under=0 \
	  $(KERNEL_TESTS) tests/adaptive/test_long_filters.py::test_equals_the_direct_kernel
	@$(BIN)/python -m coverage report

bench: $(READY)
	@$(BIN)/python -m benchmarks.adaptive_filters
	@$(BIN)/python -m benchmarks.patch_autocorrelation

docs: $(READY)
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/html
	@echo "== Done. Open build/html/index.html in a browser"

fuzz: $(READY)
	@FUZZ_CASES=20000 $(BIN)/python -m pytest -n 2 tests/fuzz

torture: $(READY)
	@$(BIN)/python -m tests.torture --rounds 50 --seed 0

dist: $(READY)
	@.ci/dist $(BIN)/python

constraints: $(READY)
	@$(BIN)/python .ci/constraints.py

PLOTLY := 4.1.1
VENDOR := cnnbridge/inspection/vendor

plotly:
	@part=$$(mktemp -d) && cd $$part && npm pack --silent plotly.js-basic-dist-min@$(PLOTLY) && \
	  tar xzf *.tgz && cp package/plotly-basic.min.js $(CURDIR)/$(VENDOR)/ && \
	  cp package/LICENSE $(CURDIR)/$(VENDOR)/plotly-LICENSE && rm -rf $$part
	@cd $(VENDOR) && sha256sum plotly-basic.min.js plotly-LICENSE > SHA256SUMS

clean:
	rm -rf $(VENV) $(DEMO) build docs/api docs/examples .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find adaptive cnnbridge studies tests -name __pycache__ -type d -prune -exec rm -rf {} +
