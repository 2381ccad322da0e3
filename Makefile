# `make run` starts the demo and `make test` tests everything; both make a virtual environment first.
# `make test-fast` leaves out the tests marked slow or swarm. `make test-vllm` plays rounds with a real vLLM, and
# `make test-sglang` with a real SGLang. `make lint` checks style and types. `make clean` deletes the environment and what
# was built. `make soak` kills and starves real nodes for about an hour (as root, on Linux). `make bench-gpu` measures
# speed and memory on a GPU beside plain TRL, in about five minutes; with a second GPU and with vLLM also these.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
# Options for pip or uv, such as an index, and the build of torch: auto, cpu or default (the index's first choice).
PIP_FLAGS ?=
TORCH ?= auto
# Tests mostly wait for processes and clocks, so four run at a time on two cores. A file's tests stay in one process, and the
# longest files start first (tests/conftest.py).
TEST_FLAGS ?= --numprocesses=4 --dist=loadfile --no-loadscope-reorder
# Fast tests hardly wait: they spend most of their time on the imports of each process.
FAST_FLAGS ?= --numprocesses=2 --dist=loadfile -m 'not slow and not swarm'
define CHECK_PYTHON
@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found" >&2; \
	echo "  try: make run PYTHON=/path/to/python3.12" >&2; exit 3; }
endef
INSTALL = PIP_FLAGS='$(PIP_FLAGS)' $(PYTHON) tools/install.py $(VENV) --torch $(TORCH)

# A real vLLM on the CPU, in an environment of its own (4 GB), for `make test-vllm`.
VLLM ?= build/vllm
# A real SGLang on the CPU, for `make test-sglang`. It uses the libraries of vLLM's environment.
SGLANG ?= build/sglang

.PHONY: run test test-fast test-vllm test-sglang bench-gpu soak lint clean

run: $(VENV)/.installed
	@# Ctrl-C is a way to end the demo, not an error.
	@trap : INT; $(VENV)/bin/swarmctl run --profile demo || test $$? -eq 130

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest $(TEST_FLAGS)

test-fast: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest $(FAST_FLAGS)

soak: $(VENV)/.installed-dev
	$(VENV)/bin/python -m benchmarks.soak

bench-gpu: $(VENV)/.installed-dev
	$(VENV)/bin/python -m benchmarks.gpu

test-vllm: $(VENV)/.installed-dev $(VLLM)/.installed
	SGLANG= VLLM=$(VLLM)/bin/vllm $(VENV)/bin/python -m pytest -rP tests/hivemind_exp/runner/test_real_vllm.py \
		tests/swarmctl/run/test_serve_real.py

test-sglang: $(VENV)/.installed-dev $(SGLANG)/.installed
	VLLM= SGLANG=$(SGLANG)/bin/python $(VENV)/bin/python -m pytest -rP tests/hivemind_exp/runner/test_real_sglang.py \
		tests/swarmctl/run/test_serve_real.py

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo --no-cache
	$(VENV)/bin/hadolint Dockerfile

clean:
	rm -rf $(VENV) build *.egg-info

$(VLLM)/.installed: tools/vllm_environment.py
	$(CHECK_PYTHON)
	@PIP_FLAGS='$(PIP_FLAGS)' $(PYTHON) tools/vllm_environment.py $(VLLM)
	@touch $@

$(SGLANG)/.installed: tools/sglang_environment.py $(wildcard tools/sglang_cpu/*) $(VLLM)/.installed
	$(CHECK_PYTHON)
	@PIP_FLAGS='$(PIP_FLAGS)' $(PYTHON) tools/sglang_environment.py $(SGLANG) $(VLLM)
	@touch $@

$(VENV)/.installed: pyproject.toml $(wildcard requirements/*.txt)
	$(CHECK_PYTHON)
	@$(INSTALL)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(wildcard requirements/*.txt)
	$(CHECK_PYTHON)
	@$(INSTALL) --extra dev
	@touch $@ $(VENV)/.installed
