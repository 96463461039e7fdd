# `make demo`: a clip from tiny random models. `make test`: the tests. `make check`: all that CI asks.
# VENV, PYTHON, COMFYUI_PATH and GOLDEN can be set on the command line.

PYTHON ?= python3
VENV ?= .venv
GOLDEN ?= tests/golden/data
BIN := $(VENV)/bin

# ComfyUI, if there is one: named by COMFYUI_PATH, around this folder (custom_nodes/..), or at home.
COMFYUI := $(patsubst %/comfy/options.py,%,$(firstword \
	$(wildcard $(addsuffix /comfy/options.py,$(COMFYUI_PATH) $(abspath ../..) $(HOME)/comfy/ComfyUI))))
ifneq ($(COMFYUI),)
export COMFYUI_PATH := $(COMFYUI)
COMFY_DEPS := $(VENV)/.comfy-deps
endif

TINY := out/tiny
CLIP := out/demo.mp4
TRAINED := out/train-tiny
export PROMPT ?= A woman looks into the camera and says, <S>Hello, I am live.<E> <AUDCAP>A clear female voice in a quiet room.<ENDAUDCAP>

.PHONY: help demo train-tiny test again slow gpu golden bench check lint fix release clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    write $(CLIP) with tiny random models (first run installs into $(VENV))"
	@echo "make train-tiny   train a student of a toy world into $(TRAINED), all phases, on a CPU"
	@echo "make test    run the tests"
	@echo "make again   run the tests that failed last time, one by one"
	@echo "make slow    run the slow tests"
	@echo "make gpu     run the tests that need a GPU: fast ways make the clip of the plain one"
	@echo "make golden  compare with the golden tensors under GOLDEN=$(GOLDEN)"
	@echo "make bench   measure speed: what this machine can in a few minutes (BENCHMARKS.md)"
	@echo "make check   formatting, lint, layers, types, tests: what CI runs"
	@echo "make fix     let ruff format and mend"
	@echo "make release TAG=v1.2.3   say whether this tag can be published"
	@echo "make clean   remove what make made"

demo: $(TINY)/.made
	@mkdir -p $(dir $(CLIP))
	$(BIN)/hallo-live generate "$$PROMPT" --models $(TINY) --seconds 5 --seed 1 --size 128x256 -o $(CLIP)
	@echo "The clip is $(CLIP): noise that moves and sounds, since the weights are random."

train-tiny: $(VENV)/.deps
	$(BIN)/python -m training train-tiny --folder $(TRAINED)
	@echo "To see it: $(BIN)/hallo-live generate 'A red light flickers in the dark.' --models $(TRAINED)/models --seconds 2 --size 32x32 -o $(TRAINED)/clip.mp4"

# Pytest answers 5 when a selection is empty, which is no failure.
PYTEST := status=0; $(BIN)/python -m pytest
EMPTY_IS_FINE := || status=$$?; [ $$status = 0 ] || [ $$status = 5 ]

# One process per core, a file of tests at a time: a server is started once per process, not per test.
test: $(VENV)/.deps $(COMFY_DEPS)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# The tests that failed last time, one by one.
again: $(VENV)/.deps $(COMFY_DEPS)
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none

slow: $(VENV)/.deps $(COMFY_DEPS)
	$(PYTEST) -m "slow and not gpu" $(EMPTY_IS_FINE)

gpu: $(VENV)/.deps
	$(BIN)/python -m pytest tests/gpu -m gpu

golden: $(VENV)/.deps
	HALLO_LIVE_GOLDEN="$(abspath $(GOLDEN))" $(BIN)/python -m pytest tests/golden

bench: $(VENV)/.deps
	$(BIN)/python -m benchmarks

check: lint test

# Formats and lints JavaScript, where node is; without retries, so that a desk offline waits briefly.
BIOME := npm_config_fetch_retries=0 npm_config_fetch_timeout=10000 npm_config_loglevel=error \
	npx --yes --prefer-offline @biomejs/biome@2.3.8

lint: $(VENV)/.deps
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -c "from importlinter.cli import lint_imports_command as run; run()"
	$(BIN)/python -m basedpyright --pythonpath $(BIN)/python
	@if $(BIOME) --version >/dev/null 2>&1; then $(BIOME) check; \
	else echo "No node, or no network for it: the JavaScript is not checked."; fi

fix: $(VENV)/.deps
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .
	@if $(BIOME) --version >/dev/null 2>&1; then $(BIOME) check --write; fi

release:
	@$(PYTHON) tools/check_release.py "$$TAG"

clean:
	rm -rf out $(TINY) build .pytest_cache .ruff_cache .import_linter_cache *.egg-info
	rm -rf .venv

# A torch that already drives a GPU here is used as it is: the new environment sees the packages
# beside it, and the constraints keep its version. Otherwise constraints.txt says which torch.
$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	@site=$$($(PYTHON) tools/cuda_torch.py $(VENV)/constraints.txt) && if [ -n "$$site" ]; then \
		echo "Using the torch in $$site"; \
		echo "$$site" > $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/host-torch.pth; \
	else cp constraints.txt $(VENV)/constraints.txt; fi
	@touch $@

$(VENV)/.deps: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing into $(VENV); the first time this takes some minutes (torch is large)."
	$(BIN)/python -m pip install --quiet -c $(VENV)/constraints.txt -e ".[dev]"
	@touch $@

# What the tests inside ComfyUI need; `requests` because ComfyUI imports it without asking for it.
$(VENV)/.comfy-deps: $(VENV)/.deps $(COMFYUI)/requirements.txt
	$(BIN)/python -m pip install --quiet -c $(VENV)/constraints.txt -r $(COMFYUI)/requirements.txt requests
	@touch $@

# Written anew when the code that writes them changes.
$(TINY)/.made: $(VENV)/.deps $(wildcard hallo_live_core/config.py hallo_live_core/checkpoints/*.py)
	$(BIN)/hallo-live make-tiny $(TINY)
	@touch $@
