# `make run` starts the demo and `make test` tests everything; both make a virtual environment first.
# `make test-fast` leaves out the tests marked slow or swarm, `make lint` checks style and types, `make clean` removes it all.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
PIP_FLAGS ?=
# Tests wait for processes and clocks more than they compute: three at a time on two cores. A file's tests stay together.
TEST_FLAGS ?= --numprocesses=3 --dist=loadfile
# Fast tests hardly wait; most of their time is what each process imports.
FAST_FLAGS ?= --numprocesses=2 --dist=loadfile -m 'not slow and not swarm'
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS)

# How much pip downloads. Plain Linux gets torch with CUDA, which is most of it.
ifeq ($(shell uname -s)-$(shell uname -m),Linux-x86_64)
SIZE = about 3 GB to download, most of it torch with CUDA
SMALLER = For 0.5 GB without CUDA: PIP_FLAGS="--index-url …", with the address that pytorch.org gives under Get Started.
else
SIZE = about 0.5 GB to download
SMALLER =
endif

define ANNOUNCE
@echo 'Installing into $(VENV): $(SIZE).'
@echo 'This takes minutes, in which pip says nothing.'
$(if $(SMALLER),@echo '$(SMALLER)')
endef

.PHONY: run test test-fast lint clean

run: $(VENV)/.installed
	$(VENV)/bin/swarmctl run --profile demo

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest $(TEST_FLAGS)

test-fast: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest $(FAST_FLAGS)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found" >&2; \
		echo "  try: make run PYTHON=/path/to/python3.12" >&2; exit 3; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "error: $(PYTHON) cannot make virtual environments" >&2; \
		echo "  try: apt-get install python3-venv" >&2; exit 3; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(ANNOUNCE)
	@$(PIP) --constraint constraints.txt --config-settings editable_mode=compat --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(ANNOUNCE)
	@$(PIP) --constraint constraints.txt --config-settings editable_mode=compat --editable '.[dev]'
	@touch $@ $(VENV)/.installed
