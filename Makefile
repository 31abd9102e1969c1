PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo test test-oldest test-zoo docs notebooks bench purity recipe calibration ablation atlas planted scale clean

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
	$(PY) benchmarks/core.py

purity: .venv/bench.stamp
	$(PY) benchmarks/purity.py

recipe: .venv/bench.stamp
	$(PY) benchmarks/recipe.py

calibration: .venv/bench.stamp
	$(PY) benchmarks/calibration.py

ablation: .venv/bench.stamp
	$(PY) benchmarks/ablation.py

atlas: .venv/bench.stamp
	$(PY) benchmarks/atlas.py

planted: .venv/bench.stamp
	$(PY) benchmarks/planted_cause.py

scale: .venv/bench.stamp
	$(PY) benchmarks/scale.py

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
