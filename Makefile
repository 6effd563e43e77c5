# Everything on a fresh machine with python3 (3.10 or newer, with venv) and make; nothing is installed outside .venv.

PYTHON ?= python3
VENV := .venv
# Files of tests.
TWO_AT_A_TIME := -n 2 --dist loadfile

.PHONY: test demo app clean

test: $(VENV)/.installed-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest $(TWO_AT_A_TIME)

demo: $(VENV)/.installed
	$(VENV)/bin/python demo.py --relative --adapt_scale

app: $(VENV)/.installed-app
	$(VENV)/bin/python app.py

$(VENV)/.installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-app: $(VENV)/.installed requirements-app.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-app.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-app requirements-dev.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-app.txt -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
