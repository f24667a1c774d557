# Requires only Debian, Python and root. Each target installs what it needs.

PYTHON ?= python3
ARCH ?=
BUILD := $(PYTHON) packaging/build.py
# The code is imported from packaging/ and the checkout; nothing is installed.
export PYTHONPATH := $(CURDIR)/packaging
export PYTHONDONTWRITEBYTECODE := 1
IN_VENV = venv=$$($(BUILD) venv) && exec "$$venv"
# Tests of the kernel and of clusters wait more than they work: two of them to a CPU.
PROCESSES ?= $(shell echo $$((2 * $$(nproc))))

.PHONY: help zipapp test unit netns hosts cluster lint bench demo demo-cluster docs lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z -]*\):.* ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

zipapp: ## build dist/tailscale-cni; with ARCH=arm64, dist/tailscale-cni-arm64
	@$(BUILD) zipapp $(if $(ARCH),--arch $(ARCH))

test: ## run all test suites
	@$(BUILD) need unit netns hosts cluster
	@$(IN_VENV) -m tests.prepare unit netns hosts cluster
	@$(IN_VENV) -m pytest --numprocesses=$(PROCESSES)

unit netns hosts cluster: ## run one test suite
	@$(BUILD) need $@
	@$(IN_VENV) -m tests.prepare $@
	@$(IN_VENV) -m pytest --numprocesses=$(PROCESSES) tests/$@

lint: ## run the linters
	@$(BUILD) need unit
	@$(IN_VENV) -m pytest tests/unit/test_linters.py

bench: ## measure the cost, compared with sidecars; with QUICK=1, in under three minutes
	@$(BUILD) need bench
	@venv=$$($(BUILD) venv --bench) && exec "$$venv" -m tests.bench $(if $(QUICK),--quick)

demo: ## show a pod becoming a Tailscale node, without a cluster
	@$(BUILD) need netns
	@$(IN_VENV) -m tests.kit.demo

demo-cluster: ## show the same on a real kubelet
	@$(BUILD) need cluster
	@$(IN_VENV) -m tests.cluster.demo

docs: ## generate the pages and tables of docs/ that are made from code
	@$(IN_VENV) packaging/docs.py

lock: ## resolve the dependencies again into packaging/*.lock
	@$(BUILD) lock

clean: ## remove build results; the cache stays
	rm -rf dist build
