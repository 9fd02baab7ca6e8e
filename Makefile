# What one does here, each one word: `make run`, `make test`, `make check`, `make bench`.
# Needs Python >= 3.11 (with venv) and make; everything else goes into .venv.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
COMPILED := .compiled
FORM ?= compiled
CONFIG ?= config/mailflow.toml
TESTS ?= tests

# The first of these that runs, is new enough and can make an environment; failing that, one that is new enough, to say
# what it lacks. The distribution's come first: they are built with profile-guided optimisation, which those compiled on
# the spot (pyenv) often are not, and the server does a sixth more with it. Who names one (make PYTHON=...) gets that one.
PYTHONS := $(addprefix /usr/bin/,python3.13 python3.12 python3.11 python3) python3.13 python3.12 python3.11 python3 python3.14
define FIND_PYTHON
for need in venv,ensurepip sys; do \
  for p in $(or $(PYTHON),$(PYTHONS)); do \
    if $$p -c "import sys, $$need; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; then echo $$p; break 2; fi; \
  done; \
done
endef

# Whether there is a compiler, and what it needs of the Python of $(VENV).
CAN_COMPILE = { command -v cc >/dev/null && [ -e "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; }

.PHONY: help run test check compiled test-compiled format docs bench bench-short torture fuzz clean distclean

help:
	@echo 'make run          start the server with $(CONFIG): compiled, where there is a compiler (else, or with FORM=interpreted, as it stands)'
	@echo 'make test         run the tests (TESTS=tests/e2e for some of them)'
	@echo 'make check        format check, lint, types, layers, generated documents, tests'
	@echo 'make compiled     install the compiled form into $(COMPILED), as run does (needs a C compiler, some 2 minutes)'
	@echo 'make test-compiled  the tests, of that'
	@echo 'make format       let ruff format and mend what it can'
	@echo 'make docs         write the generated documents anew'
	@echo 'make bench        measure, beside Postfix where it is installed (about an hour)'
	@echo 'make bench-short  the same, a few cases only (about 5 minutes)'
	@echo 'make fuzz         throw bytes at the parsers for five minutes (FUZZ='--seconds 600 core' for more of one)'
	@echo 'make torture      hurt the server in every way, and count the mail (about 1 hour; TORTURE='kill-at-random --seed 1' for a part)'
	@echo 'make clean        remove what the tools left; make distclean: .venv and ./var (spool and mail!) too'

run: $(VENV)/.installed
	@bin=$(BIN); \
	if [ '$(FORM)' = interpreted ]; then :; \
	elif ! $(CAN_COMPILE); then \
	  echo 'Not compiled, and so slower: no C compiler, or no headers of Python (Debian and Ubuntu: apt install gcc libc6-dev python3-dev)'; \
	elif $(MAKE) --silent compiled; then bin=$(COMPILED)/bin; \
	else echo 'It could not be compiled, and starts as it stands'; fi; \
	exec $$bin/mailflow serve --hello --config $(CONFIG)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(TESTS) -m 'not slow'

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/wishes.py --check
	$(BIN)/python -m pytest $(TESTS) -m 'not slow'

compiled: $(COMPILED)/.installed

test-compiled: $(COMPILED)/.dev
	$(COMPILED)/bin/python -m pytest -o pythonpath=. -p no:cacheprovider $(TESTS) -m 'not slow'

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev
	$(BIN)/python tests/wishes.py
	$(BIN)/mailflow config reference > docs/settings.md

bench: $(VENV)/.installed try-compiled
	$(BIN)/python -m bench
	$(BIN)/python -m bench.size
	$(BIN)/python -m bench.fairness
	$(BIN)/python -m bench.scheduler_sim

bench-short: $(VENV)/.installed try-compiled
	$(BIN)/python -m bench --short
	$(BIN)/python -m bench.size --short
	$(BIN)/python -m bench.fairness --short --servers mailflow
	$(BIN)/python -m bench.scheduler_sim --short

torture: $(VENV)/.dev
	MAILFLOW_TORTURE=1 MAILFLOW_CRASH_ROUNDS=20 $(BIN)/python -m pytest tests/e2e/test_crash.py tests/queue/test_crash.py --timeout 1200
	$(BIN)/python -m tests.torture $(TORTURE)

# atheris is installed when it is needed, and done without where there is no wheel for this Python.
fuzz: $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --group fuzz || echo 'Without atheris:'
	$(BIN)/python -m tests.fuzz $(FUZZ)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache bench/results
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) $(COMPILED) var

# The package itself, editable; again only when pyproject.toml changed.
$(VENV)/.installed: pyproject.toml
	@python=$$($(FIND_PYTHON)); \
	if [ -z "$$python" ]; then \
	  echo 'mailflow needs Python 3.11 or newer, and none was found (looked for $(or $(PYTHON),$(PYTHONS))). Name one: make PYTHON=/path/to/python3' >&2; exit 1; \
	fi; \
	if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
	  if ! $$python -c 'import venv, ensurepip' 2>/dev/null; then \
	    echo "$$python lacks the venv module (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$python"; \
	  $$python -m venv --clear $(VENV); \
	fi
	@echo 'Installing mailflow into $(VENV)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# The tools of the `dev` group; dependency groups need pip 25.1.
$(VENV)/.dev: $(VENV)/.installed
	@echo 'Installing the development tools into $(VENV)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

# The same from a wheel, with what a message passes compiled (docs/compiled.md); again when a source has changed.
$(COMPILED)/.installed: $(VENV)/.installed hatch_build.py pyproject.toml $(shell find src -name '*.py')
	@if ! $(CAN_COMPILE); then \
	  echo 'The compiled form needs a C compiler and the headers of Python (Debian and Ubuntu: apt install gcc libc6-dev python3-dev)' >&2; exit 1; \
	fi
	@echo 'Compiling mailflow into $(COMPILED), which takes some 2 minutes (make run FORM=interpreted starts without)'
	@[ -e $(COMPILED)/bin/python ] || $(BIN)/python -m venv $(COMPILED)
	@HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 $(COMPILED)/bin/python -m pip install --quiet --disable-pip-version-check .
	@touch $@

$(COMPILED)/.dev: $(COMPILED)/.installed
	@$(COMPILED)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(COMPILED)/bin/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

.PHONY: try-compiled
try-compiled: $(VENV)/.installed
	@$(MAKE) --no-print-directory compiled || echo 'Measured without the compiled form'
