# One line a target; the work is in scripts/ and tox.ini.
.PHONY: help intro test test-quick endurance test-generic test-libvirt test-virtualbox test-virtualbox-nested install lint types docs bench clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null || grep '##' $(MAKEFILE_LIST)

intro: ## Set up all that is needed, make the machine "intro", and run a container in it
	@scripts/setup
	@scripts/intro

test: ## Run all tests, in real virtual machines too
	@scripts/setup --tests
	@scripts/test

test-quick: ## Run the unit and contract tests, lint, types, and one real machine: two minutes
	@scripts/setup --tests
	@scripts/test -e lint,types,py,machine

test-generic: ## Run the tests of the driver generic alone, with a real host
	@scripts/setup --tests
	@scripts/test -e generic

test-virtualbox: ## Run the tests of the driver virtualbox alone
	@scripts/setup --tests
	@scripts/test -e virtualbox

test-virtualbox-nested: ## Run machines in VirtualBox in QEMU: half an hour, not part of "test"
	@scripts/setup --tests
	@scripts/virtualbox-chroot nested
	@scripts/test -e virtualbox-nested

test-libvirt: ## Run the tests of the driver libvirt alone
	@scripts/setup --tests
	@scripts/test -e libvirt,libvirt-more

install: ## Make .venv/bin/pymachine, and nothing else
	@scripts/setup --python

lint: ## Check the style of Python and shell files and of commit messages
	@scripts/setup --tests
	@.venv/bin/tox -q -e lint

types: ## Check the types
	@scripts/setup --tests
	@.venv/bin/tox -q -e types

docs: ## Check the documentation against the code
	@scripts/setup --tests
	@.venv/bin/tox -q -e docs

endurance: ## Kill, fill up and confuse pymachine for an hour; ENDURANCE_OPTIONS=--help lists the options
	@scripts/setup --tests
	@PYTHONPATH=tests .venv/bin/python -m endurance $(ENDURANCE_OPTIONS)

bench: ## Measure, and write docs/explanation/benchmarks.md
	@scripts/setup --tests
	@.venv/bin/python benchmarks/run.py

clean: ## Remove what the other targets made in this folder (no machine)
	@rm -rf .venv .tox .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
