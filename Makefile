# make demo   set everything up and run the main job on the demo collection
# make test   set everything up, check style and types, run all tests
# make quick  between edits, in less than a minute: check style, run the unit tests that neither train nor draw
# All take PYTHON=python3.12 for another interpreter; the environment is made again when it changes.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
EXTRAS ?= test,java
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check -q
SOURCES = $(shell find pyserini_llm_sparse -type f -not -path '*/__pycache__/*') $(wildcard *.py *.pth *.start)
# Test files side by side, each in a process with one thread; in their order, for those that take long come first.
PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
export TOKENIZERS_PARALLELISM = false

# Those that take seconds each.
SLOW = $(wildcard tests/unit/test_training_*.py tests/unit/test_regression_*.py) $(addprefix tests/unit/test_, \
  benchmarks.py masked_backbone.py quantization_example.py shipped_recipes.py)

.PHONY: demo test quick test-end-to-end test-optimum lint style clean

demo: $(VENV)/installed
	$(VENV)/bin/python examples/demo/run.py

test: $(VENV)/installed lint
	$(PYTEST)

quick: $(VENV)/dependencies style
	$(PYTEST) $(filter-out $(SLOW),$(wildcard tests/unit/test_*.py))

# The claims that only a whole Pyserini can prove, for the second interpreter of a continuous integration run.
test-end-to-end: $(VENV)/installed
	$(PYTEST) tests/integration

# optimum's exporter needs transformers 4, and with it Python 3.11 and an environment of its own: VENV=.venv-optimum. Of
# what tests need it has the least: with the rest pip looks for a solution for very long.
test-optimum: EXTRAS = optimum,java
test-optimum: $(VENV)/installed
	$(PIP) install 'pytest>=8' 'pytest-timeout>=2.3' 'pytest-xdist>=3.7' 'sentencepiece>=0.2'
	$(PYTEST) $(wildcard tests/parity/test_onnx*.py)

lint: $(VENV)/installed style
	$(VENV)/bin/mypy

style: $(VENV)/dependencies
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# Installed as a user installs it and not in editable mode: only then the start-up hook is in place.
$(VENV)/installed: $(VENV)/dependencies $(SOURCES)
	@rm -rf build/lib build/bdist.*
	$(PIP) install --no-deps --no-build-isolation --force-reinstall .
	@touch $@

# Where there is no GPU, PyTorch's CPU build saves gigabytes; where that cannot be had, the default build works as well.
# pip compiles on one core, which takes more than half of its time. Some packages have files for other Pythons.
$(VENV)/dependencies: setup.cfg pyproject.toml $(VENV)/python-$(VERSION)
	command -v nvidia-smi >/dev/null || \
	  $(PIP) install --no-compile --retries 1 --index-url https://download.pytorch.org/whl/cpu '$(TORCH)' 2>/dev/null || \
	  echo 'No CPU build of PyTorch is to be had for this Python: installing the default build.'
	$(PIP) install --no-compile 'setuptools>=77' wheel '$(TORCH)' '.[$(EXTRAS)]'
	$(VENV)/bin/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
	@touch $@

$(VENV)/python-%:
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
