# One line for each target. The work is done in scripts/ and tox.ini.
.PHONY: help intro test test-quick endurance test-generic test-libvirt test-virtualbox test-virtualbox-nested install lint types package docs bench clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null || grep '##' $(MAKEFILE_LIST)

intro: ## Install what is needed, create the machine "intro", and run a container in it
	@scripts/setup
	@scripts/intro

test: ## Run all tests, including those with real virtual machines
	@scripts/setup --tests
	@scripts/test

test-quick: ## Run the unit and contract tests, lint, types, and one real machine: four minutes
	@scripts/setup --tests
	@scripts/test -e lint,types,py,machine

test-generic: ## Run only the tests of the driver generic, with a real host
	@scripts/setup --tests
	@scripts/test -e generic

test-virtualbox: ## Run only the tests of the driver virtualbox
	@scripts/setup --tests
	@scripts/test -e virtualbox

test-virtualbox-nested: ## Run guests in VirtualBox in an emulated computer (half an hour, not part of "test")
	@scripts/setup --tests
	@scripts/virtualbox-chroot nested
	@scripts/test -e virtualbox-nested

test-libvirt: ## Run only the tests of the driver libvirt
	@scripts/setup --tests
	@scripts/test -e libvirt,libvirt-session,libvirt-more

install: ## Create only .venv/bin/pymachine
	@scripts/setup --python

lint: ## Check the style of Python and shell files and of commit messages
	@scripts/setup --tests
	@.venv/bin/tox -q -e lint

types: ## Check the types
	@scripts/setup --tests
	@.venv/bin/tox -q -e types

package: ## Build the wheel, check it, and install it with pip, pipx and uv
	@scripts/setup --tests
	@.venv/bin/tox -q -e package

docs: ## Check the documentation against the code
	@scripts/setup --tests
	@.venv/bin/tox -q -e docs

endurance: ## Run the endurance campaign for an hour (ENDURANCE_OPTIONS=--help lists its options)
	@scripts/setup --tests
	@PYTHONPATH=tests .venv/bin/python -m endurance $(ENDURANCE_OPTIONS)

bench: ## Run the benchmarks and write docs/explanation/benchmarks.md
	@scripts/setup --tests
	@.venv/bin/python benchmarks/run.py
	@.venv/bin/python benchmarks/named_templates.py
	@.venv/bin/python benchmarks/shared_folders.py
	@.venv/bin/python benchmarks/plugin_programs.py

clean: ## Remove the files that the other targets created here (but no machines)
	@rm -rf .venv .tox .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
