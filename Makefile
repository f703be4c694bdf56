# Two commands matter: `make quickstart` and `make test`. Each is complete on a fresh machine with Python 3.10+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: quickstart test check faults kills parity benchmark notebooks docs clean

quickstart: $(BIN)/.installed   ## install, fetch the pretrained weights, fine-tune on real data, say what was won
	$(BIN)/mlx-bert info
	$(BIN)/mlx-bert fetch
	$(BIN)/mlx-bert train configs/competitions/sentence_polarity.yaml run_name=one_split
	$(BIN)/mlx-bert run configs/competitions/sentence_polarity.yaml run_name=folds

test: $(BIN)/.installed-dev     ## lint, types, notebooks, package: everything that CI runs
	$(BIN)/mlx-bert fetch
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --ignore tests/browser -n 2 --dist loadfile
	$(BIN)/python -m pytest tests/browser
	$(BIN)/python tools/docs.py

QUICK := tasks declaration data models core callbacks validation ensemble parallel
check: $(BIN)/.installed-dev    ## after each change, two minutes: lint, types, and the tests that take a moment each
	$(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/python -m pytest -x -n 2 -m "not slow and not long" $(QUICK:%=tests/%)

faults: $(BIN)/.installed-dev   ## kills, signals, full disks, damage, forgery and memory, many times, and a table of what came of it
	FAULTS=50 $(BIN)/python -m pytest tests/faults -s

notebooks: $(BIN)/.installed-dev    ## run every notebook again and keep its outputs
	$(BIN)/nbdev_export && $(BIN)/python tools/run_notebooks.py && $(BIN)/python tools/readme.py

docs: $(BIN)/.installed-dev     ## the documentation as web pages, in _docs
	$(BIN)/python tools/docs.py

TORCH := $(VENV)-torch/bin

parity: $(TORCH)/.installed     ## logits, gradients, saved models and bundles against live transformers
	$(TORCH)/python -m pytest tests/parity tests/kaggle/test_bundle.py -s

kills: $(BIN)/.installed-dev    ## twenty workers are killed over ten folds: nothing is lost, nothing is done twice
	$(BIN)/python -m pytest -m slow -s tests/parallel

benchmark: $(TORCH)/.installed  ## speed and memory against transformers and torch, in one interleaved run
	$(TORCH)/python benchmarks/train_step.py

$(TORCH)/.installed: benchmarks/requirements.txt
	$(PYTHON) -m venv $(VENV)-torch
	$(TORCH)/pip install -q --upgrade pip
	$(TORCH)/pip install -q -r benchmarks/requirements.txt pytest hypothesis -e .
	@touch $@

$(BIN)/.installed: settings.ini setup.py | $(BIN)/python
	$(BIN)/pip install -q -e ".[notebook]"
	@touch $@

$(BIN)/.installed-dev: settings.ini setup.py | $(BIN)/python
	$(BIN)/pip install -q -e ".[dev]"
	@touch $@ $(BIN)/.installed

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip

clean:
	rm -rf $(VENV) $(VENV)-torch build dist _docs _proc *.egg-info runs
