# One command each. `make run` and `make test` are all that a newcomer needs.
.DEFAULT_GOAL := help
SHELL := /bin/bash

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## the whole pipeline on this machine, with a screen (ARGS=--for=60s ends by itself)
	@infra/stack/demo $(ARGS)

test: ## every test, unit and on real servers of its own
	@infra/stack/test $(ARGS)

soak: ## long crash and chaos tests on real servers
	@infra/stack/soak $(ARGS)

bench: ## benchmarks: events per CPU-second of each part, latency, footprint
	@infra/stack/bench $(ARGS)

fmt: ## format
	@cargo fmt --all

lint: ## format check, clippy, dependency rules, what the documents name
	@cargo fmt --all --check
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	@.ci/dependency-rules
	@.ci/references

deny: ## licences, bans, sources
	@.ci/deny

docs: ## regenerate what is generated: the JSON Schemas for other senders
	@cargo run --locked -p schemas --all-features --example json_schemas -- --write

.PHONY: help run test soak bench fmt lint deny docs
