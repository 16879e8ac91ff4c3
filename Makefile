VENV := orchestration/dagster/.venv
PYTHON := $(VENV)/bin/python
MOTO := $(VENV)/moto
SAMPLE := sample/data-engineering
HOST ?= 127.0.0.1
PORT ?= 3000
# Most of what a test does is to wait for processes of its own.
WORKERS = $$((2 * $$(getconf _NPROCESSORS_ONLN)))
IS_RECENT := 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'

export DATA_ENGINEERING_ROOT DCPY_PYTHON

.PHONY: up dcpy init generate checkout lint test test-long bench soak month

up: checkout dcpy
	@exec $(PYTHON) -m orchestration up --host $(HOST) --port $(PORT)

# The checkout's own, in an environment of its own, unless DCPY_PYTHON says who has it.
dcpy: $(VENV)/installed
	@$(PYTHON) -m orchestration.installation

# A product list for a checkout that has none.
init: $(VENV)/installed
	@$(PYTHON) -m orchestration init

generate: checkout $(VENV)/installed
	$(PYTHON) -m orchestration generate

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# Always on the bundled sample, whose locations it generates; on a real checkout, too, where
# DATA_ENGINEERING_ROOT names one and DCPY_PYTHON an interpreter with its dcpy.
test: TESTS := not long
test-long: TESTS := long
test test-long: $(VENV)/installed-dev $(if $(DCPY_PYTHON),$(MOTO)/installed)
	@$(MAKE) --no-print-directory dcpy DATA_ENGINEERING_ROOT=$(SAMPLE) DCPY_PYTHON=
	@DATA_ENGINEERING_ROOT=$(SAMPLE) $(PYTHON) -m orchestration generate
	PATH="$(abspath $(MOTO)/bin):$$PATH" $(PYTHON) -m pytest -m "$(TESTS)" \
		--numprocesses $(WORKERS) --dist loadfile

soak: $(VENV)/installed-dev
	@$(MAKE) --no-print-directory dcpy DATA_ENGINEERING_ROOT=$(SAMPLE) DCPY_PYTHON=
	$(PYTHON) -m soak
	$(PYTHON) -m soak.hosts

# In a mount namespace of its own, for its small disk.
month: $(VENV)/installed-dev
	@$(MAKE) --no-print-directory dcpy DATA_ENGINEERING_ROOT=$(SAMPLE) DCPY_PYTHON=
	unshare --map-root-user --mount $(PYTHON) -m soak.month

bench: $(VENV)/installed
	$(PYTHON) -m benchmarks $(PARTS)

# Asked before anything is installed: whether there is something to serve.
checkout:
	@$(or $(wildcard $(PYTHON)),python3) -c $(IS_RECENT)
	@$(or $(wildcard $(PYTHON)),python3) -m orchestration.catalog.checkout > /dev/null

$(VENV)/installed: requirements.txt
	@python3 -c $(IS_RECENT)
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	touch $@

# The emulator of the team's storage, in a venv of its own: it writes certificates into it.
$(MOTO)/installed:
	python3 -m venv $(MOTO)
	$(MOTO)/bin/python -m pip install --quiet --disable-pip-version-check 'moto[proxy,s3]==5.2.5'
	touch $@
