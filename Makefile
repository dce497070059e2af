# Everything a newcomer needs: `make demo` runs the whole pipeline, `make test` runs the tests; both set up .venv first.

PYTHON ?= python3
WORKERS ?= 2
BIN := $(CURDIR)/.venv/bin
# Asked while PATH is still the caller's. A version that is too old is none.
VERSION := import sys; sys.version_info < (3, 11) or print("%d.%d" % sys.version_info[:2])
WANTED := $(shell $(PYTHON) -c '$(VERSION)' 2>/dev/null)
FOUND := $(shell .venv/bin/python -c '$(VERSION)' 2>/dev/null)
IN_PLACE := $(shell grep -sF '$(BIN)/python' .venv/bin/pip)
STALE := $(and $(wildcard .venv),$(or \
  $(if $(FOUND),,has no working Python of 3.11 or later), \
  $(if $(IN_PLACE),,was made elsewhere or is unfinished), \
  $(if $(filter-out $(FOUND),$(WANTED)),is of Python $(FOUND))))
export PATH := $(BIN):$(PATH)

.PHONY: .venv demo test test-slow lint clean

.venv: .venv/.complete

ifneq ($(STALE),)
.PHONY: .venv/.complete
endif

.venv/.complete: requirements.lock pyproject.toml
	@test "$(WANTED)" || { test -e .venv && test -z "$(STALE)"; } || \
	  { echo "Fairway needs Python 3.11 or later; $(PYTHON) is none: name one, as in make PYTHON=python3.12 demo"; exit 1; }
	$(if $(STALE),@echo ".venv $(STALE); it is made anew with Python $(WANTED)"; rm -rf .venv)
	test -e .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: .venv
	fairway demo
	fairway report

test: .venv
	pytest -m "not slow and not gpu" -n $(WORKERS) --dist worksteal --durations 20

test-slow: .venv
	pytest -m slow -n $(WORKERS) --dist worksteal --durations 20

lint: .venv
	ruff check .
	ruff format --check .
	mypy

clean:
	rm -rf .venv artifacts build .pytest_cache .mypy_cache .ruff_cache .hypothesis
