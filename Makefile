PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo test bench purity scale clean

demo: .venv/demo.stamp
	$(PY) examples/quickstart.py

test: .venv/test.stamp
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest

bench: .venv/bench.stamp
	$(PY) benchmarks/core.py

purity: .venv/bench.stamp
	$(PY) benchmarks/purity.py

scale: .venv/bench.stamp
	$(PY) benchmarks/scale.py

$(PY):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it with make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/%.stamp: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf .venv demo .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
