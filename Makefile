PYTHON ?= python3
PY := .venv/bin/python
# What a benchmark prints is kept: the pages quote it, and a test compares them. Some need
# the folder of images and weights, `make recipe DATA=FOLDER`.
SHELL := bash
.SHELLFLAGS := -o pipefail -c
RECORD = | tee benchmarks/results/$@.txt

.PHONY: demo test test-oldest test-zoo docs notebooks bench purity recipe pools calibration ablation atlas planted choices scale clean

demo: .venv/demo.stamp
	$(PY) examples/digits.py

test: .venv/test.stamp
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m mypy benchmarks
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses 2

test-oldest: .venv-oldest/test.stamp
	.venv-oldest/bin/python -m pytest --no-cov

docs: .venv/docs.stamp
	$(PY) -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

notebooks: .venv/test.stamp
	$(PY) examples/notebooks.py

test-zoo: .venv/test.stamp
	$(PY) -m pytest --no-cov -m zoo tests/zoo/test_zoo_names.py

bench: .venv/bench.stamp
	$(PY) benchmarks/core.py $(RECORD)

purity: .venv/bench.stamp
	$(PY) benchmarks/purity.py $(DATA:%=--data %) $(RECORD)

recipe: .venv/bench.stamp
	$(PY) benchmarks/recipe.py $(DATA:%=--data %) $(RECORD)

pools: .venv/bench.stamp
	$(PY) benchmarks/pools.py $(DATA:%=--data %) $(RECORD)

calibration: .venv/bench.stamp
	$(PY) benchmarks/calibration.py $(RECORD)

ablation: .venv/bench.stamp
	$(PY) benchmarks/ablation.py $(DATA:%=--data %) $(RECORD)

atlas: .venv/bench.stamp
	$(PY) benchmarks/atlas.py $(DATA:%=--data %) $(RECORD)

planted: .venv/bench.stamp
	$(PY) benchmarks/planted_cause.py $(DATA:%=--cifar %) $(RECORD)

choices: .venv/bench.stamp
	$(PY) benchmarks/choices.py $(RECORD)

scale: .venv/bench.stamp
	$(PY) benchmarks/scale.py $(RECORD)

$(PY):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it with make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/%.stamp: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --editable '.[$*]'
	touch $@

.venv-oldest/test.stamp: pyproject.toml .ci/oldest.txt
	test -d .venv-oldest || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint .ci/oldest.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-oldest build demo .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
