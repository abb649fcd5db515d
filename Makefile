# Every target makes the virtual environment it needs from a bare python3.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A process for each core, with whole files: those with the programs of others come first, and take longest.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test check docs bench format clean

# pip 25.1 is the first that installs dependency groups.
define environment
$(VENV)/.$(1): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "preparing $(VENV) ($(1))"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(2)
	@touch $$@
endef

$(eval $(call environment,demo,-e .))
$(eval $(call environment,test,-e . --group test))
$(eval $(call environment,check,-e . --group test --group lint --group docs))

demo: $(VENV)/.demo
	@$(BIN)/python -m example_app.demo

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

check: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --quiet --strict
	$(BIN)/python docs/llms.py site

docs: $(VENV)/.check
	$(BIN)/mkdocs serve

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

format: $(VENV)/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) site build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
