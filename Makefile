# Every target sets up what it needs: a virtual environment in .venv, the dependencies, the build.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
TORCH ?= torch==2.13.0
# What the wheel is tried with.
PACKAGE_TORCHES ?= $(TORCH) torch==2.14.1
VENV ?= .venv
BIN := $(VENV)/bin
# For builds without isolation.
BUILD_TOOLS := 'scikit-build-core>=0.10' 'nanobind>=2.4' 'cmake>=3.25' ninja
# Models and weights are never downloaded.
export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# What a pip of the distribution may be told about the system is not for a virtual environment.
export PIP_REQUIRE_VIRTUALENV :=
# Hundreds of the tests start a Python; each would compile memomalloc anew.
export PYTHONDONTWRITEBYTECODE :=
# Most of what is installed is never imported: compiling all of it takes pip longer than unpacking it.
export PIP_COMPILE := 0

SOURCES := $(shell find csrc src/memomalloc -name '*.[ch]' -o -name '*.[ch]pp' -o -name '*.pyi' 2>/dev/null) \
           CMakeLists.txt cmake/find_torch.py src/memomalloc/runtime/torch_versions.py pyproject.toml

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# Of pip's warnings none is for who runs make; errors are shown.
QUIETLY := --quiet --quiet
# Editable: Python changes take effect at once, changes to C++ build anew. What was compiled is kept for the next time.
EDITABLE := $(QUIETLY) --no-build-isolation --config-settings=build-dir=$(abspath $(VENV))/memomalloc-build --editable

$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(QUIETLY) '$(TORCH)' $(BUILD_TOOLS)
	@touch $@

# What the demo needs, a quarter of what development does.
$(VENV)/demo: $(VENV)/torch $(SOURCES)
	$(BIN)/python -m pip install $(EDITABLE) '.[demo]'
	@touch $@

$(VENV)/installed: $(VENV)/demo
	$(BIN)/python -m pip install $(EDITABLE) '.[dev]'
	@touch $@

.PHONY: install
install: $(VENV)/installed  ## make .venv with torch, memomalloc and all that development needs

.PHONY: demo
demo: $(VENV)/demo  ## show the gain on real models (three and a quarter minutes on two slow cores, two of them set-up)
	$(BIN)/memomalloc demo

.PHONY: test
test: lint types docs native smoke pytest  ## lint, types, documents, native tests under sanitizers, smoke runs, all tests

.PHONY: pytest
pytest: $(VENV)/installed  ## the Python tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: lint
lint: $(VENV)/installed  ## format and lint checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files '*.[ch]' '*.[ch]pp' | xargs $(BIN)/clang-format --dry-run --Werror

.PHONY: format
format: $(VENV)/installed  ## format all code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.[ch]' '*.[ch]pp' | xargs $(BIN)/clang-format -i

.PHONY: types
types: $(VENV)/installed  ## mypy --strict
	$(BIN)/mypy

.PHONY: native
native: native-thread native-address native-release  ## native tests: ThreadSanitizer, Address- and UBSanitizer, and as shipped

.PHONY: native-thread
native-thread: $(VENV)/installed
	tests/native/run $(BIN) build/native-thread thread

.PHONY: native-address
native-address: $(VENV)/installed
	tests/native/run $(BIN) build/native-address address,undefined

# What a sanitizer would hide: that the fast path makes no system call, takes no lock, allocates nothing.
.PHONY: native-release
native-release: $(VENV)/installed
	tests/native/run $(BIN) build/native-release ""

.PHONY: native-aarch64
native-aarch64: $(VENV)/installed  ## the native tests for aarch64, in an emulator (needs g++-aarch64-linux-gnu and qemu-user)
	tests/native/run-aarch64 $(BIN) build/native-aarch64

.PHONY: smoke
smoke: $(VENV)/installed native-release  ## the benchmarks in their smallest size (the demo's is among the tests)
	$(BIN)/memomalloc bench planners --smoke
	$(BIN)/memomalloc bench models --suite demo --model mobilenet_v2,bert_small --batch 1 --smoke -o build/smoke-models.json
	$(BIN)/memomalloc bench report build/smoke-models.json -o build/smoke-report
	$(BIN)/python benchmarks/fast_path.py --smoke
	$(BIN)/python benchmarks/time_shares.py --smoke --batch 1
	$(BIN)/python benchmarks/call_overhead.py --smoke
	$(BIN)/python benchmarks/learning_cost.py --smoke
	$(BIN)/python benchmarks/five_models.py --smoke
	$(BIN)/python benchmarks/many_cores.py --smoke --output build/smoke-many-cores

.PHONY: package
package: $(VENV)/installed  ## sdist and wheel, installed and used in empty environments with two releases of torch
	@mkdir -p build
	tests/package/run $(BIN) $(PACKAGE_TORCHES)

.PHONY: library
library: $(VENV)/installed  ## the planner for C and C++ in build/library: find_package(memomalloc)
	PATH=$(CURDIR)/$(BIN):$$PATH cmake -S . -B build/library -G Ninja -DMEMOMALLOC_LIBRARY=ON
	$(BIN)/cmake --build build/library
	$(BIN)/cmake --install build/library --prefix build/library/installed

# PAIRS='3.11:2.9.1 3.12:2.11.0' for some of them; ARGUMENTS for pytest.
.PHONY: matrix
matrix:  ## the Python tests with each Python and torch of docs/versions.md, each in an environment of its own (hours)
	$(PYTHON) tests/matrix/run.py $(PAIRS) -- $(ARGUMENTS)

.PHONY: docs
docs: $(VENV)/installed  ## the site of documents, built strictly, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: stress
stress: $(VENV)/installed  ## half an hour of load: twenty models on four threads, wrappers of all kinds, calls that raise
	MEMOMALLOC_STRESS_S=1200 $(BIN)/python -m pytest -s tests/stress/test_many_models.py
	MEMOMALLOC_STRESS_S=600 MEMOMALLOC_NUM_RAISES=10000 $(BIN)/python -m pytest -s --deselect tests/stress/test_many_models.py tests/stress \
	    tests/fault/test_serving_faults.py

.PHONY: fuzz
fuzz: $(VENV)/installed  ## random programs, problems and damaged files: a minute, or MEMOMALLOC_FUZZ_S=3600 for an hour
	MEMOMALLOC_FUZZ_S=$${MEMOMALLOC_FUZZ_S:-60} $(BIN)/python -m pytest -s tests/fuzz
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzzer.py

.PHONY: doctor
doctor: $(VENV)/installed  ## the doctor's verdicts on all of its programs, on a busy machine (an hour; MEMOMALLOC_DOCTOR_REPETITIONS=10: ten)
	MEMOMALLOC_DOCTOR_REPETITIONS=$${MEMOMALLOC_DOCTOR_REPETITIONS:-1} $(BIN)/python -m pytest -s tests/integration/test_doctor.py

.PHONY: bench-fast-path
bench-fast-path: native-release  ## nanoseconds of an allocate-and-free pair, beside four allocators
	$(BIN)/python benchmarks/fast_path.py --json build/fast_path.json

.PHONY: bench-time
bench-time: $(VENV)/installed  ## where the time of a replayed call goes: the kernel, each operator (a minute)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/time_shares.py --json build/time_shares.json

.PHONY: bench-locality
bench-locality: $(VENV)/installed  ## which placement misses the caches least, by callgrind's simulation (an hour; needs valgrind)
	$(BIN)/python benchmarks/locality.py --json build/locality.json
	$(BIN)/memomalloc bench report build/locality.json -o build/locality

.PHONY: bench-calls
bench-calls: $(VENV)/installed  ## what a planned call costs besides its model, for small models and many arguments (a minute)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/call_overhead.py --json build/call_overhead.json

.PHONY: bench-learning
bench-learning: $(VENV)/installed  ## what learning costs whole programs, at every point of their run (half an hour)
	$(BIN)/python benchmarks/learning_cost.py --json build/learning_cost.json

.PHONY: bench-snapshot
bench-snapshot: $(VENV)/installed  ## a GPU's snapshot of a gigabyte and five million events: time and memory (some minutes)
	$(BIN)/python benchmarks/snapshot_reading.py --json build/snapshot_reading.json

.PHONY: bench-models
bench-models: $(VENV)/installed  ## latency and memory of transformers over four allocators, as on their page (40 minutes)
	$(BIN)/memomalloc bench models --suite transformers --upstream glibc,jemalloc,tcmalloc,mimalloc \
	  --processes 1 --budget 8 -o build/models.json --resume
	$(BIN)/memomalloc bench report build/models.json -o build/models

.PHONY: bench-memory
bench-memory: $(VENV)/installed  ## memory of whole processes over four allocators, as on their page (half an hour)
	$(BIN)/memomalloc bench memory -o build/memory.json --resume
	$(BIN)/memomalloc bench report build/memory.json -o build/memory

.PHONY: bench-service
bench-service: $(VENV)/installed  ## services under load over six allocators, workers as threads and as processes (eight hours)
	$(BIN)/memomalloc bench service --way threads,processes -o build/service.json --resume
	$(BIN)/memomalloc bench report build/service.json -o build/service

# On any machine: with the environment there is, and without the package index where `make cores-wheels` was before.
.PHONY: bench-many-cores
bench-many-cores:  ## contention from 1 to 64 threads, and services, on whatever machine this is (under eight minutes)
	python=$(BIN)/python; [ -x $$python ] || python=$(PYTHON); $$python benchmarks/many_cores.py

# For a machine without a package index that has torch and a compiler.
CORES_PYTHON ?= 3.12
.PHONY: cores-wheels
cores-wheels: $(VENV)/torch  ## what bench-many-cores needs besides torch, for Python CORES_PYTHON, in build/wheels
	$(BIN)/python -m pip download --quiet --only-binary :all: --python-version $(CORES_PYTHON) --dest build/wheels \
	  --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
	  $(BUILD_TOOLS) numpy 'transformers>=5'

.PHONY: bench-modern
bench-modern: $(VENV)/installed  ## models of today over five allocators (two hours on two cores)
	$(BIN)/memomalloc bench models --suite modern --batch 1 --upstream glibc,glibc-tuned,jemalloc,tcmalloc,mimalloc \
	  --budget 10 -o build/modern.json --resume
	$(BIN)/memomalloc bench report build/modern.json -o build/modern

.PHONY: bench-threads
bench-threads: $(VENV)/installed  ## models with 1, 2 and all cores in an operator, over every allocator (two hours on two cores)
	for suite in demo transformers modern; do \
	  $(BIN)/memomalloc bench models --suite $$suite --intra-op-threads 1,2,all \
	    --upstream glibc,glibc-tuned,jemalloc,jemalloc-tuned,tcmalloc,mimalloc --processes 1 --budget 5 \
	    -o build/threads.json --resume || exit 1; \
	done
	$(BIN)/memomalloc bench report build/threads.json -o build/threads

.PHONY: bench-modes
bench-modes: $(VENV)/installed  ## the demo's models in TorchScript, compiled, and with two threads in an operator (half an hour)
	for situation in '--mode eager,torchscript,compile,compile-memory-planning' '--intra-op-threads 2'; do \
	  $(BIN)/memomalloc bench models --suite demo $$situation --upstream glibc,jemalloc \
	    --processes 1 --budget 5 -o build/modes.json --resume || exit 1; \
	done
	$(BIN)/memomalloc bench report build/modes.json -o build/modes

# Libraries from which tests make models with random weights; torchvision decides which torch.
LIBRARIES := accelerate diffusers lightning monai open_clip_torch peft segmentation-models-pytorch sentence-transformers \
             speechbrain timm torch_geometric torchao transformers ultralytics

.venv-libraries/installed: $(SOURCES)
	$(PYTHON) -m venv .venv-libraries
	.venv-libraries/bin/python -m pip install --quiet --upgrade pip
	.venv-libraries/bin/python -m pip install --quiet torch==2.14.1 torchvision==0.29.1
	.venv-libraries/bin/python -m pip install --quiet $(LIBRARIES) pytest pytest-timeout pytest-xdist
	.venv-libraries/bin/python -m pip install --quiet $(BUILD_TOOLS)
	.venv-libraries/bin/python -m pip install --quiet --no-build-isolation --editable .
	@touch $@

.PHONY: libraries
libraries: .venv-libraries/installed  ## models of popular libraries, in an environment of their own (7 GB; ten minutes)
	YOLO_OFFLINE=1 .venv-libraries/bin/python -m pytest -n 2 --dist worksteal tests/libraries tests/contract/test_optimized_models.py

# torchvision does not import beside the CPU build of torch that .venv has: an environment of its own.
.venv-paper/installed: $(SOURCES)
	$(PYTHON) -m venv .venv-paper
	.venv-paper/bin/python -m pip install --quiet --upgrade pip
	.venv-paper/bin/python -m pip install --quiet torch==2.14.1 torchvision==0.29.1
	.venv-paper/bin/python -m pip install --quiet '.[bench]'
	@touch $@

# ExecuTorch brings 400 MB of its own and versions of what others need too: an environment of its own.
.venv-executorch/installed: $(SOURCES)
	$(PYTHON) -m venv .venv-executorch
	.venv-executorch/bin/python -m pip install --quiet --upgrade pip
	.venv-executorch/bin/python -m pip install --quiet '$(TORCH)' executorch==1.5.1
	.venv-executorch/bin/python -m pip install --quiet $(BUILD_TOOLS) \
	  'hypothesis>=6' 'pytest>=8' 'pytest-timeout>=2'
	.venv-executorch/bin/python -m pip install --quiet --no-build-isolation --editable '.[bench]'
	@touch $@

.PHONY: executorch
executorch: .venv-executorch/installed  ## the tests with the real ExecuTorch, in an environment of their own (1.5 GB; ten minutes)
	.venv-executorch/bin/python -m pytest tests/integration/test_executorch.py

# JAX, IREE and LiteRT, each with versions of its own of what others need too; no torch.
.venv-compilers/installed: $(SOURCES)
	$(PYTHON) -m venv .venv-compilers
	.venv-compilers/bin/python -m pip install --quiet --upgrade pip
	.venv-compilers/bin/python -m pip install --quiet $(BUILD_TOOLS) \
	  'pytest>=8' 'pytest-timeout>=2' jax==0.10.2 jaxlib==0.10.2 iree-base-compiler==3.13.0 ai-edge-litert==2.3.0
	.venv-compilers/bin/python -m pip install --quiet --no-build-isolation --editable .
	@touch $@

.PHONY: compilers
compilers: .venv-compilers/installed  ## the tests with the real XLA, IREE and LiteRT, in an environment of their own (1 GB; five minutes)
	.venv-compilers/bin/python -m pytest tests/integration/test_compilers.py

.PHONY: bench-executorch
bench-executorch: .venv-executorch/installed  ## bytes beside ExecuTorch's own planner, as on their page (a quarter of an hour)
	.venv-executorch/bin/memomalloc bench executorch --json build/executorch.json
	.venv-executorch/bin/memomalloc bench report build/executorch.json -o build/executorch

.PHONY: bench-paper
bench-paper: .venv-paper/installed  ## the models of the paper, as on their pages, in an environment of their own (5.5 GB; three hours)
	for size_and_name in '128 paper' '224 paper-224'; do \
	  read -r size name <<<"$$size_and_name"; \
	  .venv-paper/bin/memomalloc bench models --suite paper --input-size $$size --batch 1,8 --workers 1,2 \
	    --upstream glibc,jemalloc,tcmalloc,mimalloc --processes 1 --budget 5 -o build/$$name.json --resume && \
	  .venv-paper/bin/memomalloc bench report build/$$name.json -o build/$$name || exit 1; \
	done

# The pages of docs/benchmarks, from what was measured; a test says when they are not.
.PHONY: bench-pages
bench-pages: $(VENV)/installed  ## docs/benchmarks anew from benchmarks/results
	for page in demo=demo peers=peers paper=paper paper-224=paper-224 transformers=transformers modes=modes memory=memory planners=planners executorch=executorch time=time_shares \
	  service=service modern=modern threads=threads locality=locality; do \
	  name=$${page%=*}; \
	  [ -f benchmarks/results/$${page#*=}.json ] || continue; \
	  $(BIN)/memomalloc bench report benchmarks/results/$${page#*=}.json -o docs/benchmarks/$$name --markdown docs/benchmarks/$$name.md; \
	done
	rm -f docs/benchmarks/*/*.png docs/benchmarks/*/*.html
	find docs/benchmarks -mindepth 1 -type d -empty -delete
	$(BIN)/python benchmarks/allocator_page.py

.PHONY: clean
clean:  ## remove the virtual environment and all that was built
	rm -rf $(VENV) .venv-libraries .venv-paper .venv-executorch .venv-compilers .venv-matrix build dist \
	  .mypy_cache .pytest_cache .ruff_cache .hypothesis
