# The only commands to remember. What they do stands in deploy/*.sh and manage.py.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run demo test check lock clean

PYTHON := .venv/bin/python
MESSAGES ?= 5000
KILL ?=
ONLY ?=
MODE ?=
PROBE ?=

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

run: ## start everything and stay; MODE=live PROBE=domain sends to the real world
	@deploy/bootstrap.sh runtime
	@$(PYTHON) manage.py fleet run $(if $(MODE),--mode "$(MODE)") $(if $(PROBE),--probe "$(PROBE)")

demo: ## send MESSAGES=5000 through the lab, count, exit; KILL=1 kills a worker in the middle
	@deploy/bootstrap.sh runtime
	@$(PYTHON) manage.py fleet demo --messages "$(MESSAGES)" $(if $(filter-out 0,$(KILL)),--kill)

test: ## run the suites; ONLY=core,io,control,workers,e2e for some
	@deploy/bootstrap.sh dev
	@deploy/test.sh "$(ONLY)"

check: ## lint, format, types, import contracts, migrations
	@deploy/bootstrap.sh dev
	@deploy/check.sh

lock: ## compile requirements.in and requirements-dev.in into the pinned .txt files
	@deploy/bootstrap.sh dev
	@deploy/lock.sh

clean: ## remove the venv, caches and var/ (all data of the embedded stack)
	@deploy/clean.sh
