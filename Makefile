# make train    trains the default network on the photographs that come with the package
# make test     runs the tests, the kernels emulated and checked
# make test-faults  kills, full disks, damaged files, bad input: many times each, an hour
# make sanitize the CPU's own kernels under AddressSanitizer and UBSan: tests of every operation, and
#               two minutes of odd calls (FUZZ_SECONDS); their threads under ThreadSanitizer
# make lint     formatting, style, types, and the number of lines
# make bench    times operations and steps beside PyTorch, if it is installed, on CPU or GPU
# make gpu      on a machine with an NVIDIA GPU and nvcc: tests, compute-sanitizer, and the bench
#               beside PyTorch and JAX, kept as a record; MINUTES=9: the most informative parts, in
#               nine minutes including installation; RECORD=folder: where the record goes
# make cuda-all compiles every kernel for every supported card; needs nvcc, no GPU
#
# Each makes .venv and installs the package into it first; a second call starts in seconds.
# ISOLATION=off builds and runs with the packages already installed, without a network.
# PYTHON=python3.12 picks another interpreter, VENV=elsewhere a folder other than .venv,
# PYALEXNET_CUDA=AUTO|ON|OFF whether the GPU's module is built (AUTO: if a GPU and nvcc are found,
# see bindings/cuda/find_nvcc.cmake); PYALEXNET_NVCC_WHEEL=1 takes nvcc from its wheels.
# WERROR=1 turns compiler warnings into errors.

BEGUN := $(shell date +%s) # before anything is installed
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := CMakeLists.txt pyproject.toml \
           $(shell find kernels bindings -type f -not -name '*.md' 2>/dev/null)
CXX_FILES := $(shell find kernels bindings tests -type f -name '*.cu' -o -type f -name '*.cuh' \
               -o -type f -name '*.h' -o -type f -name '*.hpp' -o -type f -name '*.cpp')

# ---- the GPU, if there is one

GPU := $(shell nvidia-smi -L 2>/dev/null | head -n 1)
NVCC := $(shell command -v nvcc 2>/dev/null || ls $${CUDA_HOME:-/usr/local/cuda}/bin/nvcc 2>/dev/null)
ifeq ($(PYALEXNET_NVCC_WHEEL),1)
  CUDA_MAJOR := 13
else ifneq ($(NVCC),)
  CUDA_MAJOR := $(shell $(NVCC) --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
endif
PYALEXNET_CUDA ?= AUTO
CUPY := $(if $(and $(GPU),$(CUDA_MAJOR),$(filter-out OFF,$(PYALEXNET_CUDA))),cuda$(CUDA_MAJOR))
ifeq ($(PYALEXNET_NVCC_WHEEL),1)
  CUPY := $(if $(CUPY),$(CUPY) cuda-wheels) # no toolkit here: CuPy brings its own libraries
endif

# If there is a compiler, the tests read its machine code for the kernels.
CUDA_TOOLS := $(if $(CUDA_MAJOR),cuda-tools)

# ---- installing

comma := ,
space := $() $()
extras = $(subst $(space),$(comma),$(strip $(1) $(CUPY)))
offline := $(filter off,$(ISOLATION))
# Build requirements are installed beside the package, in a folder that stays, so that only changed files
# are compiled again; but pip itself fetches nvcc's wheels, which a build then requires.
isolated := $(if $(offline),,$(filter 1,$(PYALEXNET_NVCC_WHEEL)))
# $(1): extras of pyproject.toml, $(2), $(3): whether the emulation and its checker are built, $(4): the
# instruction sets of the CPU's own module. Builds are kept in the environment: two environments in
# one tree, or a `pip install .` beside them, share nothing.
install = $(if $(offline),$(BIN)/python -P pyalexnet/install.py $(filter test,$(1)) &&) \
          $(BIN)/python -m pip install --quiet --disable-pip-version-check \
            -C build-dir=$(abspath $(VENV))/build \
            -C cmake.define.PYALEXNET_SIM=$(2) \
            -C cmake.define.PYALEXNET_SIMCHECK=$(3) \
            -C cmake.define.PYALEXNET_CPU_SETS=$(4) \
            -C cmake.define.PYALEXNET_CUDA=$(PYALEXNET_CUDA) \
            -C cmake.define.PYALEXNET_WARNINGS_ARE_ERRORS=$(if $(WERROR),ON,OFF) \
            $(if $(isolated),,--no-build-isolation) $(if $(offline),--no-deps) \
            --editable '.$(if $(call extras,$(1)),[$(call extras,$(1))])'

# Only the packages of an extra: installing the package itself again would compile it again.
EXTRA := import sys, tomllib; \
  extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
  print(*extras[sys.argv[1]])
REQUIRED := import tomllib; \
  print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])
pip-install = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(1)
add = $(call pip-install,$$($(BIN)/python -c '$(EXTRA)' $(1)))

.PHONY: train test test-faults sanitize lint bench gpu gpu-peers cuda-all clean

train: $(VENV)/installed
	$(BIN)/pyalexnet train

test: $(VENV)/test-installed
	$(BIN)/python -m pytest -n 3 --timeout-method thread # two cores; some tests wait

test-faults: $(VENV)/test-installed
	$(BIN)/python -m pytest -m "faults or again"
	$(MAKE) sanitize

bench: $(VENV)/installed
	$(BIN)/python -m bench

gpu: $(VENV)/test-installed gpu-peers
	$(BIN)/python -m bench.gpu --begun $(BEGUN) $(if $(MINUTES),--minutes $(MINUTES)) \
	  $(if $(RECORD),--record $(RECORD))

gpu-peers: $(VENV)/test-installed
	@$(if $(offline),:,$(call add,gpu-peers)) || echo "PyTorch and JAX could not be installed" >&2

# The module for the best instruction set, in place of the installed one. Leaks are not reported:
# they would be NumPy's and Python's own.
SANITIZED := $(abspath build/sanitized)
# libstdc++ is preloaded because the sanitizer wraps its exceptions as it starts.
RUNTIME = $(foreach library,libasan.so libstdc++.so.6,$(shell $${CXX:-c++} -print-file-name=$(library)))
sanitized = PYALEXNET_SANITIZED=$(SANITIZED)/module PYTHONPATH=tests/sanitized:tests LD_PRELOAD='$(RUNTIME)' \
  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
  PYALEXNET_TEST_BACKENDS=cpu $(BIN)/python
OPERATIONS := $(wildcard $(patsubst bindings/%.cpp,tests/test_%.py,$(wildcard bindings/*.cpp)))
FUZZ_SECONDS ?= 120

sanitize: $(VENV)/test-installed $(VENV)/build-requirements
	@mkdir -p $(SANITIZED)
	$${CXX:-c++} -std=c++17 -O1 -g -fsanitize=thread -Ikernels -pthread \
	  tests/sanitized/threads.cpp kernels/simt/threads.cpp -o $(SANITIZED)/threads
	TSAN_OPTIONS=die_after_fork=0:halt_on_error=1 $(SANITIZED)/threads
	$(BIN)/cmake -S . -B $(SANITIZED) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
	  -DPYALEXNET_CUDA=OFF -DPYALEXNET_SANITIZE=address,undefined \
	  -DPYALEXNET_DEV_OUTPUT=$(SANITIZED)/module -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
	  -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	$(BIN)/cmake --build $(SANITIZED) --target \
	  $$($(BIN)/python -c 'from pyalexnet.backends.cpu import *; print(instruction_sets()[chosen_set()])')
	$(sanitized) -m pytest -n 2 $(OPERATIONS)
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(sanitized) -m fuzz_bindings

lint: $(VENV)/lint-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/mypy
	$(BIN)/python tests/lines.py

# If $(PYTHON) itself belongs to an environment, --system-site-packages gives only the packages of
# its base interpreter. The environment's own are added by a path file, the first that is read.
OUTER := import pathlib, sys, sysconfig; from sysconfig import get_path; \
  new = get_path("purelib", vars=dict.fromkeys(("base", "platbase"), sys.argv[1])); \
  outer = sorted({get_path(name) for name in ("purelib", "platlib")}); \
  text = "".join(f"import site; site.addsitedir({path!r})\n" for path in outer); \
  sys.prefix == sys.base_prefix or pathlib.Path(new, "0-outer.pth").write_text(text)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(if $(offline),--system-site-packages) $(VENV)
	@$(if $(offline),$(PYTHON) -c '$(OUTER)' $(VENV))

# The emulation and its checker take longer to compile than everything else: `make train` omits
# them, and the instruction sets that this machine would not use.
SIM ?= OFF
$(VENV)/installed: $(VENV)/build-requirements $(SOURCES)
	@echo "installing pyalexnet into $(VENV) (about a minute the first time)"
	@if [ -e $(VENV)/test-installed ]; then $(call install,test $(CUDA_TOOLS),ON,ON,all); \
	  else $(call install,,$(SIM),OFF,native); fi
	@touch $@

$(VENV)/test-installed: $(VENV)/build-requirements $(SOURCES)
	@echo "installing pyalexnet with its checker into $(VENV) (about two minutes the first time)"
	@$(call install,test $(CUDA_TOOLS),ON,ON,all)
	@touch $@ $(VENV)/installed

# The linters read no compiled code, so a changed kernel need not be compiled first.
$(VENV)/lint-installed: $(if $(wildcard $(VENV)/test-installed),,$(VENV)/test-installed)
	@$(if $(offline),,$(call add,lint))
	@touch $@

# ---- every card

CARDS := 80-real;86-real;89-real;90-real;90a-real;100-real;120

cuda-all: $(VENV)/build-requirements
	$(BIN)/cmake -S . -B build/cuda-all -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
	  -DPYALEXNET_CUDA=ON '-DPYALEXNET_CUDA_ARCHITECTURES=$(CARDS)' -DPYALEXNET_WARNINGS_ARE_ERRORS=ON \
	  -DPYALEXNET_DEV_OUTPUT=$(abspath build/cuda-all/module) -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
	  -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	$(BIN)/cmake --build build/cuda-all --target _cuda
	$(BIN)/python tests/import_cuda_module.py build/cuda-all/module

$(VENV)/build-requirements: $(BIN)/python pyproject.toml
	@$(if $(offline),,$(call pip-install,cmake ninja $$($(BIN)/python -c '$(REQUIRED)')))
	@touch $@

clean:
	rm -rf build $(VENV)
