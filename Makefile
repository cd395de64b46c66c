# make demo         train, convert, evaluate, export, verify, serve, and print the URL of a page to try it all on
# make demo-models  the same without the server
# make demo-video   the same with a denoiser of clips
# make test         format check, lint, types, tests
#
# TORCH=cpu    take PyTorch's CPU wheels: hundreds of megabytes instead of several gigabytes of CUDA
# PORT=8000    where the demo's server listens
# PYTHON=...   Python 3.11 or newer that makes the virtual environment

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
TORCH ?=
BIN := $(VENV)/bin
TORCH_PINS := 'torch==2.13.*' 'torchvision==0.28.*'
DEMO := digits_skipat digits_vit digits_fast digits_int8 photos_skipat photos_uformer
NATIVE := $(wildcard skipvit/native/*.[ch] skipvit/native/*.py)  # compiled by an install
FAST_SPEC := static:0-1 skip:4-5 tokens:1/2@2

.DELETE_ON_ERROR:
.PHONY: demo demo-models demo-video test lint format readme clean

demo: demo-models
demo-video: demo-models models/pans_skipat/1/manifest.json
demo demo-video:
	$(BIN)/skipvit-serve models --config serve/demo.toml --port $(PORT)

demo-models: $(DEMO:%=models/%/1/manifest.json)

models/%/1/manifest.json: runs/%/evaluation/evaluation.json
	rm -rf models/$*/1  # made from the run, and made anew when that is newer
	$(BIN)/skipvit-to-onnx runs/$* --out models --precision fp32,fp16 --version 1

# For CPUs that are asked for much: the fast one with its linear layers in int8.
models/digits_int8/1/manifest.json: runs/digits_fast/evaluation/evaluation.json
	rm -rf models/digits_int8/1
	$(BIN)/skipvit-to-onnx runs/digits_fast --name digits_int8 --out models --version 1 --precision int8 \
		--min-agreement 0.97  # one of the 180 digits that it is compared on is 0.6 %

runs/%/evaluation/evaluation.json: runs/%/checkpoint.json
	$(BIN)/skipvit-evaluate runs/$*

# The demo's ViT made faster, without labels.
runs/digits_fast/checkpoint.json: runs/digits_vit/checkpoint.json | $(VENV)/.demo
	$(BIN)/skipvit-convert runs/digits_vit builtin:digits-and-drawings --spec "$(FAST_SPEC)" --out $(@D) --resume

# A training that was interrupted goes on from its last state.
runs/%/checkpoint.json: | $(VENV)/.demo
	$(BIN)/skipvit-train $* --out runs/$* --resume
.SECONDARY:

test: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# README's figures are read from benchmarks/results, never typed.
readme: $(VENV)/.dev
	$(BIN)/python -m benchmarks.readme

$(VENV)/.demo: pyproject.toml $(NATIVE) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[train,export,serve,video]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(NATIVE) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("skipvit needs Python 3.11 or newer, and \
	$(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
ifeq ($(TORCH),cpu)
	@# uv knows the addresses of PyTorch's own builds; pip would have to be told.
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --python $(BIN)/python --torch-backend cpu $(TORCH_PINS)
endif

clean:
	rm -rf runs models dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
