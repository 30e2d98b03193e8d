# make demo        build .venv from the lock file, draw a small data set, train, evaluate, predict, write a report
# make test        all tests            make test-slow   the trainings of minutes
# make lint        ruff and pyright     make lock        write requirements.lock anew
PYTHON ?= python3
BIN := .venv/bin
.PHONY: install demo test test-slow lint lock

install: .venv/installed

# The stamp is newer than the lock file exactly when .venv holds what the lock file says.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: install
	rm -rf demo
	$(BIN)/nuriwake demo-data demo/shapes
	$(BIN)/nuriwake train demo/shapes --model unet --model.options.width 16 --out demo/run --budget 150s
	$(BIN)/nuriwake evaluate demo/run demo/shapes --split val
	$(BIN)/nuriwake predict demo/run demo/shapes/images/val --out demo/predictions
	$(BIN)/nuriwake plot demo/run
	@echo "Open demo/run/report.html"

test: install
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile

test-slow: install
	$(BIN)/python -m pytest -q -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --extra dev pyproject.toml -o requirements.lock
