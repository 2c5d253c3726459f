# make demo    a fit of simulated data, and where its report is
# make bench   time and memory of fits into a table: SUITE="spots genes" (benchmarks/suites.toml), default quick, some
#              minutes; CASES="quilt S1" prints time, memory and quality of these instead (benchmarks/cases.toml)
# make peers   the environment of MOFA-FLEX, .venv-peers, for SUITE=peers
# make studies executes the studies again, with the real data in the folder that NSF_NB_DATA names
# make test    everything: chapters, sync, form, layers, tests/; WORKERS=2 for two processes
# make docs    the book as a site in _docs/, strict and offline; make docs-check opens all of it in a browser
# They make their environments on first use and again when settings.ini, setup.py or constraints.txt change.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 0
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip
# The book needs Sphinx and nothing of the package itself, so it has a small environment of its own: .venv-docs.
DOCS := .venv-docs
# A program that others have written, for comparison, with versions of its own: .venv-peers.
PEERS := .venv-peers

.PHONY: demo test bench peers studies docs docs-check environment export chapter clean-notebooks readme lint
.DELETE_ON_ERROR:

demo: $(STAMP)
	MPLBACKEND=Agg TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/nsf demo --force

test: $(STAMP)
	MPLBACKEND=Agg TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup

bench: $(STAMP)
	$(BIN)/python $(if $(CASES),benchmarks/engine.py $(CASES),benchmarks/suites.py $(SUITE))

peers: $(PEERS)/.installed

$(PEERS)/.installed: benchmarks/peers.txt
	$(PYTHON) -m venv --clear $(PEERS)
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(PEERS)/bin/python -m pip install --quiet $$(grep ^torch== benchmarks/peers.txt)
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(PEERS)/bin/python -m pip install --quiet -r benchmarks/peers.txt
	touch $@

# Stored outputs come from real data: without them nothing is overwritten.
studies: $(STAMP)
	@test -d "$(NSF_NB_DATA)" \
	    || { echo "Expected the folder of the real data in NSF_NB_DATA, found '$(NSF_NB_DATA)'. Set it: make studies NSF_NB_DATA=folder."; exit 1; }
	for chapter in nbs/8_studies/*.ipynb; do \
	    NSF_NB_DATA="$(NSF_NB_DATA)" NSF_NB_BIN=$(BIN) tools/chapter.sh run "$$chapter" || exit 1; \
	done

docs: $(DOCS)/.installed
	PYTHONPATH=tools $(DOCS)/bin/python -m book _docs

docs-check: $(DOCS)/.installed
	$(DOCS)/bin/python tools/check_book.py _docs

$(DOCS)/.installed: settings.ini constraints.txt
	$(PYTHON) -m venv --clear $(DOCS)
	sed -n 's/^docs_requirements = //p' settings.ini | tr ' ' '\n' > $(DOCS)/requirements.txt
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(DOCS)/bin/python -m pip install --quiet -c constraints.txt -r $(DOCS)/requirements.txt
	touch $@

environment: $(STAMP)

$(STAMP): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Expected Python 3.11 or newer, found $$($(PYTHON) --version 2>&1). Set PYTHON=python3.11 or newer."; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# One chapter: export all, execute this one, clean it.  make chapter CHAPTER=nbs/01_foundations.ipynb
chapter: $(STAMP)
	NSF_NB_BIN=$(BIN) tools/chapter.sh run $(CHAPTER)

export: $(STAMP)
	NSF_NB_BIN=$(BIN) tools/chapter.sh export

clean-notebooks: $(STAMP)
	$(BIN)/nbdev_clean

# README.md, and the pictures of the landing page, from what the chapters have stored.
readme: $(STAMP)
	$(BIN)/python tools/readme.py
	$(BIN)/python tools/gallery.py

lint: $(STAMP)
	$(BIN)/ruff check .
