PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs clean

# Install, then read the embedded example: a simulated beating heart, from its raw multi-coil k-space.
demo: $(VENV)/.installed
	$(BIN)/firstread demo -o reading --overwrite
	@echo "Open reading/reading.html in a browser."

test: $(VENV)/.tested lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.tested
	$(BIN)/ruff check src tests bench
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(BIN)/pip install -q -e '.[docs]'
	$(BIN)/mkdocs build --strict

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/pip install -q -e '.[test]'
	$(BIN)/pip install -q --no-deps 'dynamic-network-architectures>=0.4,<0.5'
	touch $@

clean:
	rm -rf $(VENV) reading site
