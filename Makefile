# Each target installs what it needs and then calls one tool; the logic is in tools/*.py.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: book pdf test serve dist course slides-pdf wheel refresh lint lab locked audit
.DELETE_ON_ERROR:

book: .venv/book-installed  ## Build the site to _build/html
	$(BIN)/python -m tools.site

# Playwright and pypdf come with the tests: readers and Binder need no part of a browser.
pdf: .venv/test-installed  ## Print the whole book to dist/balancing.pdf (needs Chromium)
	$(BIN)/python -m tools.pdf

test: .venv/test-installed  ## Run every test; one of them: .venv/bin/pytest tests/test_norms.py
	$(BIN)/pytest

serve: book  ## Look at the site in a browser
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

dist: .venv/book-installed  ## The site as one file for reading without network: dist/balancing-site.zip
	$(BIN)/python -m tools.dist

course: .venv/course-installed  ## What a course needs: editions, slides, assignments; see dist/course
	$(BIN)/python -m tools.course

slides-pdf: .venv/test-installed  ## Print the slides, too: dist/course/slides/module-*.pdf (needs Chromium)
	$(BIN)/python -m tools.course.print_slides

# For everybody. EDITIONS="book student instructor" makes another one, which is not for students.
wheel: book course  ## The package with the notebooks in it: dist/balancing-*.whl
	$(BIN)/python -m tools.wheel $(EDITIONS)

refresh: .venv/book-installed  ## Execute every notebook again
	$(BIN)/python -m tools.notebooks refresh --all

lint: .venv/test-installed  ## Style and types
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy

lab: .venv/book-installed  ## Work in the notebooks
	$(BIN)/jupyter lab book

audit: .venv/test-installed  ## Compare what is installed with requirements.lock
	$(BIN)/python -m tools.lock

# Instead of what the other targets install; call it before them.
locked:  ## Install the files that requirements.lock names, and no other
	$(PYTHON) tools/check_python.py && $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --require-hashes --no-deps -r requirements.lock
	$(BIN)/pip install -q --no-build-isolation --no-deps -e .
	touch .venv/book-installed .venv/test-installed .venv/course-installed

# The stamps make an installation run again when what is asked for has changed.
.venv/test-installed: .venv/book-installed
	$(BIN)/pip install -q -c constraints.txt -e '.[book,course,test]' && touch $@

.venv/course-installed: .venv/book-installed
	$(BIN)/pip install -q -c constraints.txt -e '.[book,course]' && touch $@

.venv/book-installed: pyproject.toml constraints.txt
	$(PYTHON) tools/check_python.py && $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[book]' && touch $@
