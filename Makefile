# make train    trains the default network on the photographs that come along
# make test     runs every test, the kernels emulated and checked
# make test-faults  kills, full disks, damaged files, bad input: many times each, half an hour
# make lint     formatting, style and types
# make bench    times operations and steps beside PyTorch, if it is installed, on CPU or GPU
# make gpu      on a machine with an NVIDIA GPU and nvcc: tests, compute-sanitizer, bench, record;
#               QUICK=1 in under eight minutes
# make cuda-all compiles every kernel for every supported card; needs nvcc, no GPU
#
# Each makes .venv and installs the package into it first; a second call starts in seconds.
# ISOLATION=off builds with what is installed already, without a network.
# PYTHON=python3.12 picks another interpreter, PYALEXNET_CUDA=AUTO|ON|OFF whether the GPU's module is
# built (AUTO: where there are nvcc and a GPU), PYALEXNET_NVCC_WHEEL=1 takes nvcc from its wheels.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := CMakeLists.txt pyproject.toml \
           $(shell find kernels bindings -type f -not -name '*.md' 2>/dev/null)
CXX_FILES := $(shell find kernels bindings tests -type f -name '*.cu' -o -type f -name '*.cuh' \
               -o -type f -name '*.h' -o -type f -name '*.hpp' -o -type f -name '*.cpp')

# ---- the GPU, where there is one

GPU := $(shell nvidia-smi -L 2>/dev/null | head -n 1)
NVCC := $(shell command -v nvcc 2>/dev/null || ls $${CUDA_HOME:-/usr/local/cuda}/bin/nvcc 2>/dev/null)
ifeq ($(PYALEXNET_NVCC_WHEEL),1)
  CUDA_MAJOR := 13
else ifneq ($(NVCC),)
  CUDA_MAJOR := $(shell $(NVCC) --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
endif
PYALEXNET_CUDA ?= AUTO
ifeq ($(PYALEXNET_CUDA),AUTO)
  CUDA := $(if $(and $(GPU),$(CUDA_MAJOR)),ON,OFF)
else
  CUDA := $(PYALEXNET_CUDA)
endif
CUPY := $(if $(and $(GPU),$(CUDA_MAJOR),$(filter ON,$(CUDA))),cuda$(CUDA_MAJOR))
ifeq ($(PYALEXNET_NVCC_WHEEL),1)
  CUPY := $(if $(CUPY),$(CUPY) cuda-wheels) # no toolkit here: CuPy brings its own libraries
endif

# With a compiler the tests read what it makes of the kernels.
CUDA_TOOLS := $(if $(CUDA_MAJOR),cuda-tools)

# ---- installing

comma := ,
space := $() $()
extras = $(subst $(space),$(comma),$(strip $(1) $(CUPY)))
# $(1): extras of pyproject.toml, $(2): whether the checker is built
install = $(BIN)/python -m pip install --quiet --disable-pip-version-check \
            -C cmake.define.PYALEXNET_SIMCHECK=$(2) -C cmake.define.PYALEXNET_CUDA=$(CUDA) \
            $(if $(filter off,$(ISOLATION)),--no-build-isolation --no-deps) \
            --editable '.$(if $(call extras,$(1)),[$(call extras,$(1))])'

.PHONY: train test test-faults lint bench gpu cuda-all clean

train: $(VENV)/installed
	$(BIN)/pyalexnet train

test: $(VENV)/test-installed
	$(BIN)/python -m pytest -n 2

test-faults: $(VENV)/test-installed
	$(BIN)/python -m pytest -m faults

bench: $(VENV)/installed
	$(BIN)/python -m bench

gpu: $(VENV)/test-installed
	$(BIN)/python -m bench.gpu $(if $(QUICK),--quick)

lint: $(VENV)/lint-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(if $(filter off,$(ISOLATION)),--system-site-packages) $(VENV)

# The checker takes longer to compile than the rest together: `make train` does without.
$(VENV)/installed: $(BIN)/python $(SOURCES)
	@echo "installing pyalexnet into $(VENV) (about a minute the first time)"
	@if [ -e $(VENV)/test-installed ]; then $(call install,test $(CUDA_TOOLS),ON); else $(call install,,OFF); fi
	@touch $@

$(VENV)/test-installed: $(BIN)/python $(SOURCES)
	@echo "installing pyalexnet with its checker into $(VENV) (about two minutes the first time)"
	@$(call install,test $(CUDA_TOOLS),ON)
	@touch $@ $(VENV)/installed

# The tools alone: to install the package once more would be to compile it once more.
LINT_TOOLS := import tomllib; \
  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["lint"])

$(VENV)/lint-installed: $(VENV)/test-installed
	@$(if $(filter off,$(ISOLATION)),,$(BIN)/python -m pip install --quiet \
	  --disable-pip-version-check $$($(BIN)/python -c '$(LINT_TOOLS)'))
	@touch $@

# ---- every card

CARDS := 80-real;86-real;89-real;90-real;90a-real;100-real;120

cuda-all: $(VENV)/build-tools
	$(BIN)/cmake -S . -B build/cuda-all -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
	  -DPYALEXNET_CUDA=ON '-DPYALEXNET_CUDA_ARCHITECTURES=$(CARDS)' \
	  -DPYALEXNET_DEV_OUTPUT=$(abspath build/cuda-all/module) -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
	  -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	$(BIN)/cmake --build build/cuda-all --target _cuda
	$(BIN)/python tests/import_cuda_module.py build/cuda-all/module

$(VENV)/build-tools: $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check cmake ninja pybind11
	@touch $@

clean:
	rm -rf build $(VENV)
