# Everything a newcomer needs: `make demo` runs the whole pipeline, `make test` runs the tests; both set up .venv first.

PYTHON ?= python3
WORKERS ?= 2
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)

.PHONY: .venv demo test test-slow lint clean

.venv: .venv/.complete

.venv/.complete: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Fairway needs Python 3.11 or later; $(PYTHON) is none: name one, as in make PYTHON=python3.12 demo"; exit 1; }
	$(PYTHON) -m venv .venv
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
