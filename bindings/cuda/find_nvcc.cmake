# Sets PYALEXNET_BUILDS_CUDA: whether _cuda is built. If so, PYALEXNET_NVCC is the compiler. AUTO
# requires a card: otherwise it would compile for all of them, many minutes, and nothing here could
# run it. nvcc is looked for in $CUDACXX, $CUDA_HOME, /usr/local/cuda, on PATH, and in NVIDIA's
# Python wheels; in the wheels first if PYALEXNET_NVCC_WHEEL is set.
set(PYALEXNET_BUILDS_CUDA OFF) # not PYALEXNET_NVCC, which the cache keeps
if(PYALEXNET_CUDA STREQUAL "OFF")
  return()
elseif(PYALEXNET_CUDA STREQUAL "AUTO")
  execute_process(COMMAND nvidia-smi -L OUTPUT_VARIABLE cards ERROR_QUIET RESULT_VARIABLE no_card)
  if(NOT no_card STREQUAL "0" OR NOT cards MATCHES "GPU [0-9]+:")
    message(STATUS "no NVIDIA GPU in this machine; _cuda will not be built (with nvcc, "
                   "-C cmake.define.PYALEXNET_CUDA=ON builds it all the same)")
    return()
  endif()
elseif(NOT PYALEXNET_CUDA STREQUAL "ON")
  message(FATAL_ERROR "PYALEXNET_CUDA is ${PYALEXNET_CUDA}; AUTO, ON or OFF was expected.")
endif()

# The wheels unpack to site-packages/nvidia/cu<major>/bin; `nvidia` is a namespace package.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c
          "import importlib.util as u, pathlib as p; s = u.find_spec('nvidia'); \
           print(*(d for r in (s.submodule_search_locations if s else []) for d in p.Path(r).glob('cu*')), sep=';')"
  OUTPUT_VARIABLE nvcc_wheels OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)

get_filename_component(nvcc_of_cudacxx "$ENV{CUDACXX}" DIRECTORY)
set(nvcc_places ${nvcc_of_cudacxx} $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
if("$ENV{PYALEXNET_NVCC_WHEEL}")
  find_program(PYALEXNET_NVCC nvcc PATHS ${nvcc_wheels} PATH_SUFFIXES bin NO_DEFAULT_PATH)
endif()
find_program(PYALEXNET_NVCC nvcc HINTS ${nvcc_places} PATHS ${nvcc_wheels} PATH_SUFFIXES bin)

if(PYALEXNET_NVCC)
  set(PYALEXNET_BUILDS_CUDA ON)
  message(STATUS "nvcc: ${PYALEXNET_NVCC}; _cuda will be built")
elseif(PYALEXNET_CUDA STREQUAL "ON")
  message(FATAL_ERROR "PYALEXNET_CUDA=ON, but there is no nvcc: install a CUDA toolkit, or set "
                      "PYALEXNET_NVCC_WHEEL=1 to take the compiler from NVIDIA's Python wheels.")
else()
  message(STATUS "no nvcc found; _cuda will not be built (PYALEXNET_NVCC_WHEEL=1 takes the "
                 "compiler from NVIDIA's Python wheels)")
endif()
