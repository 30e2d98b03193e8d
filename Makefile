# make demo   build .venv, draw a small data set, train, evaluate, predict, report
# make test   all tests        make test-slow   the long ones        make lint   ruff and pyright
PYTHON ?= python3
BIN := .venv/bin

# The stamp is newer than the lock file exactly when .venv holds what the lock file says.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

install: .venv/installed
