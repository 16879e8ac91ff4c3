VENV := orchestration/dagster/.venv
PYTHON := $(VENV)/bin/python
MOTO := $(VENV)/moto
SAMPLE := sample/data-engineering
HOST ?= 127.0.0.1
PORT ?= 3000

export DATA_ENGINEERING_ROOT DCPY_PYTHON

.PHONY: up generate lint test bench soak

up: $(VENV)/installed dcpy
	@exec $(PYTHON) -m orchestration up --host $(HOST) --port $(PORT)

generate: $(VENV)/installed
	$(PYTHON) -m orchestration generate

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# Always on the bundled sample, whose locations it generates; on a real checkout, too, where
# DATA_ENGINEERING_ROOT names one and DCPY_PYTHON an interpreter with its dcpy.
test: $(VENV)/installed-dev $(if $(DCPY_PYTHON),$(MOTO)/installed)
	@$(MAKE) --no-print-directory dcpy DATA_ENGINEERING_ROOT=$(SAMPLE) DCPY_PYTHON=
	@DATA_ENGINEERING_ROOT=$(SAMPLE) $(PYTHON) -m orchestration generate
	PATH="$(abspath $(MOTO)/bin):$$PATH" $(PYTHON) -m pytest --numprocesses auto --dist loadfile

soak: $(VENV)/installed-dev
	@$(MAKE) --no-print-directory dcpy DATA_ENGINEERING_ROOT=$(SAMPLE) DCPY_PYTHON=
	$(PYTHON) -m soak

bench: $(VENV)/installed
	$(PYTHON) -m benchmarks

$(VENV)/installed: requirements.txt
	@python3 -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
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

# The checkout's own dcpy goes into the project's venv, unless another interpreter runs it.
.PHONY: dcpy
dcpy: $(VENV)/installed
	@root=$$($(PYTHON) -m orchestration.catalog.checkout) && \
	if [ -z "$$DCPY_PYTHON" ] && [ -f "$$root/pyproject.toml" ] && \
	   [ "$$root" != "$$(cat $(VENV)/dcpy 2>/dev/null)" ]; then \
		$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable "$$root" && echo "$$root" > $(VENV)/dcpy; \
	fi
