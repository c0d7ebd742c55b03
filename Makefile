# Everything runs from .venv, which scripts/setup.sh builds from the hashed locks. CI calls the same targets.
SHELL := /bin/bash
BIN := .venv/bin
CONFIG ?= configs/serve.local.yaml
CHECKS := lint types imports unit api manifests serve

.DEFAULT_GOAL := help
.PHONY: help setup run test $(CHECKS) samples engines drills hybrid audit tenants observe proofs conformance gpu upstream cluster resilience airgap fmt lock clean dev-env run-env

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: dev-env ## everything that run and test need (GATEHOUSE_EXTRA=gpu for CUDA)

run: run-env ## start Gatehouse on this machine (CONFIG=configs/serve.local.yaml)
	@exec $(BIN)/gatehouse up --config $(CONFIG)

test: dev-env ## all checks, cheapest first, with real engines
	@exec scripts/check.sh $(CHECKS)

lint: dev-env ## ruff: format and rules
	@exec scripts/check.sh $@
types: dev-env ## pyright, strict
	@exec scripts/check.sh $@
imports: dev-env ## import-linter: which package may import which
	@exec scripts/check.sh $@
unit: dev-env ## pure parts, fakes, no network
	@exec scripts/check.sh $@
api: dev-env ## the HTTP surface over fakes
	@exec scripts/check.sh $@
manifests: dev-env ## packaging, locks, manifests, image
	@exec scripts/check.sh $@
serve: dev-env ## the whole graph with real engines on CPU
	@exec scripts/check.sh $@
samples: dev-env ## samples of the long proofs: crashes at every step, hostile lines, machines of states (minutes)
	@exec scripts/check.sh $@
drills: dev-env ## what stops, kills or degrades a running system is noticed by the shipped alerts (minutes, needs promtool)
	@exec scripts/check.sh $@
engines: dev-env ## the contract of the vLLM adapter, a tier that scales, weights that are rolled out (minutes)
	@exec scripts/check.sh $@
hybrid: dev-env ## engines over Ray Serve LLM, prefill on engines of its own (minutes)
	@exec scripts/check.sh $@
audit: dev-env ## the audit log against crashes, faulty disks, a real S3 server and a second verifier (minutes)
	@exec scripts/check.sh $@
tenants: dev-env ## nobody overspends or pays twice while ledger, database and ingress are killed (minutes)
	@exec scripts/check.sh $@
observe: dev-env ## the alerts in a real Prometheus that scrapes the running graph (needs Debian's prometheus)
	@exec scripts/check.sh $@
proofs: dev-env ## the whole proofs of the gate, of which the unit tier runs samples (hours)
	@exec scripts/check.sh $@
gpu: dev-env ## what needs a CUDA device
	@exec scripts/check.sh $@

conformance: dev-env ## real coding agents and SDKs against Gatehouse (an hour with all waits; installs 2 GB of clients first)
	@scripts/clients.sh && scripts/check.sh $@
upstream: dev-env ## kind openai against a real llama.cpp server (compiles it the first time)
	@scripts/llamacpp.sh && scripts/check.sh $@
airgap: dev-env ## installs from a bundle without a route and serves; a run that reaches out to nobody (many minutes, 6 GB)
	@exec scripts/check.sh $@
cluster: dev-env ## autoscaling on a fake cluster of several nodes (minutes, needs unshare)
	@exec scripts/check.sh $@
resilience: dev-env ## parts of a fake cluster are killed, drained, replaced and cut off under load (a quarter of an hour, needs unshare, redis-server)
	@exec scripts/check.sh $@

fmt: dev-env ## rewrite formatting and sort imports
	@$(BIN)/ruff check --fix-only --quiet . && $(BIN)/ruff format .

lock: dev-env ## recompile requirements/*.lock (UPGRADE=1: newest versions)
	@scripts/lock.sh

clean: ## remove the environment and caches; .gatehouse (keys, audit log, weights) stays
	@rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

dev-env:
	@scripts/setup.sh dev

run-env:
	@scripts/setup.sh run
