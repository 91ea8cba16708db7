# Sandlot's targets. "make help" lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export CGO_ENABLED := 0
AGENT   := internal/agentbin/bin
TOOL    := go tool -modfile=tools/go.mod
GO_DIRS := client cmd internal test

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: deps
deps: ## install the distribution's packages Sandlot needs (SANDLOT_NO_INSTALL=1 only lists them)
	@scripts/deps run

.PHONY: agent
agent: ## build the programs of a sandbox that sandlot embeds
	@go build -trimpath -ldflags '-s -w' -o $(AGENT)/ ./cmd/sandlot-agent ./cmd/sandlot-boot

.PHONY: build
build: agent ## build bin/sandlot
	@go build -trimpath -ldflags '-s -w' -o bin/sandlot ./cmd/sandlot

.PHONY: run
run: deps build ## serve on 127.0.0.1:7280
	@exec bin/sandlot serve

.PHONY: demo
demo: deps build ## run a program written with the official SDK against a server
	@scripts/demo

.PHONY: check
check: ## format, vet, lint, architecture and generated code
	@scripts/check

.PHONY: generate
generate: ## generate what spec/ describes into gen/
	@scripts/generate

.PHONY: test
test: ## everything that can be proved on one machine; root runs real sandboxes
	@scripts/test

.PHONY: test-vm
test-vm: build ## run the product in stock Debian 13 and 12 machines (QEMU)
	@scripts/test-vm

.PHONY: bench
bench: build ## measure a server of its own beside the machine's floor
	@scripts/bench

.PHONY: clean
clean: ## remove what was built
	@rm -rf bin $(AGENT)/sandlot-*
