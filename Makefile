# make demo   draw with and without Skip-Cache            make test       lint and the test suite
# make help   what else there is
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt
# make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu   a build of torch without CUDA: a fraction of the download
TORCH_INDEX ?=

.PHONY: help demo test test-all lint bench clean

help:
	@echo "make demo      install, then draw with and without Skip-Cache; pictures in demo/"
	@echo "make test      install, then lint and run the test suite"
	@echo "make test-all  the slow tests too"
	@echo "make bench     the benchmarks of benchmarks/README.md"
	@echo "make clean     remove the environment and what runs have written"
	@echo "TORCH_INDEX=https://download.pytorch.org/whl/cpu behind any of them: torch without CUDA, a fraction of the download"

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing pinned dependencies into $(VENV), once: with the default build of torch about 2.7 GB to download and"
	@echo "5.7 GB on disk, 4 minutes at 100 Mbit/s; with TORCH_INDEX=https://download.pytorch.org/whl/cpu a fraction of it"
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) --editable '.[data,text,video]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/skipdit demo

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# bitsandbytes lies apart: where it is installed, every import of diffusers imports it too, a second later and with a word
$(VENV)/eight-bit: $(VENV)/installed-dev
	$(PIP) --no-deps --target $@ bitsandbytes

test-all: lint $(VENV)/eight-bit
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m ""
	PYTHONPATH=$(VENV)/eight-bit $(BIN)/python -m pytest -m slow -k 8_bits

bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/attached.py
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/embedded.py
	$(BIN)/python benchmarks/digits.py
	$(BIN)/python benchmarks/emoji.py
	$(BIN)/python benchmarks/tune.py
	$(BIN)/python benchmarks/tune.py --bf16
	$(BIN)/python benchmarks/loss_curves.py

clean:
	rm -rf $(VENV) demo out runs .pytest_cache .ruff_cache
