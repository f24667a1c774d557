# Nothing is needed beforehand but Debian, Python and root: each target installs what it needs.

PYTHON ?= python3
ARCH ?=
BUILD := $(PYTHON) packaging/build.py
# The packages of packaging/ are on the path, the checkout too; nothing is installed.
export PYTHONPATH := $(CURDIR)/packaging
export PYTHONDONTWRITEBYTECODE := 1
IN_VENV = venv=$$($(BUILD) venv) && exec "$$venv"
# Tests of the kernel and of clusters wait more than they work: two of them to a CPU.
PROCESSES ?= $(shell echo $$((2 * $$(nproc))))

.PHONY: help zipapp test unit netns hosts cluster lint bench demo demo-cluster docs lock clean
.DEFAULT_GOAL := help

help: ## what there is
	@sed -n 's/^\([a-z -]*\):.* ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

zipapp: ## dist/tailscale-cni; with ARCH=arm64 dist/tailscale-cni-arm64
	@$(BUILD) zipapp $(if $(ARCH),--arch $(ARCH))

test: ## every suite, in one run
	@$(BUILD) need unit netns hosts cluster
	@$(IN_VENV) -m tests.prepare unit netns hosts cluster
	@$(IN_VENV) -m pytest --numprocesses=$(PROCESSES)

unit netns hosts cluster: ## one suite
	@$(BUILD) need $@
	@$(IN_VENV) -m tests.prepare $@
	@$(IN_VENV) -m pytest --numprocesses=$(PROCESSES) tests/$@

lint: ## the linters alone
	@$(BUILD) need unit
	@$(IN_VENV) -m pytest tests/unit/test_linters.py

bench: ## what it costs, beside sidecars; QUICK=1: in under three minutes
	@$(BUILD) need bench
	@venv=$$($(BUILD) venv --bench) && exec "$$venv" -m tests.bench $(if $(QUICK),--quick)

demo: ## a pod becomes a Tailscale node, on this machine, with no cluster
	@$(BUILD) need netns
	@$(IN_VENV) -m tests.kit.demo

demo-cluster: ## the same on a real kubelet
	@$(BUILD) need cluster
	@$(IN_VENV) -m tests.cluster.demo

docs: ## the pages of docs/ that are tables of the code
	@$(IN_VENV) packaging/docs.py

lock: ## resolve the dependencies anew
	@$(BUILD) lock

clean: ## remove what was built here; the cache stays
	rm -rf dist build
