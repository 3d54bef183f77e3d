# The only commands to remember. What they do stands in deploy/*.sh and manage.py.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run demo test test-mongodb soak check lock clean fleet web smtpd worker-priority \
	worker-delivery \
	worker-event worker-upkeep worker-control beat flower

PYTHON := .venv/bin/python
MESSAGES ?= 5000
MINUTES ?= 10
SEED ?=
FAULTS ?=
BROKER ?=
KILL ?=
ONLY ?=
MODE ?=
PROBE ?=
# A fleet on services of your own: ENV=file with the variables, if they are not exported.
ENV ?=
PROCESSES ?=
MIGRATE ?=
N ?= 1
FLEET = test -x $(PYTHON) || { echo "first: deploy/bootstrap.sh runtime" >&2; exit 1; }; \
	exec $(PYTHON) manage.py fleet
ENV_FILE = $(if $(ENV),--env-file "$(ENV)")

help: ## show this list
	@grep -E '^[a-z-]+:.*## |^## ' Makefile | sed -E 's/^## /\n/; s/:.*## /\t/' | expand -t 17

run: ## start everything and stay; MODE=live PROBE=domain sends to the real world
	@deploy/bootstrap.sh runtime
	@$(PYTHON) manage.py fleet run $(if $(MODE),--mode "$(MODE)") $(if $(PROBE),--probe "$(PROBE)")

demo: ## send MESSAGES=5000 through the lab, count, exit; KILL=1 kills a worker in the middle
	@deploy/bootstrap.sh runtime
	@$(PYTHON) manage.py fleet demo --messages "$(MESSAGES)" $(if $(filter-out 0,$(KILL)),--kill)

## A fleet on services of your own (docs/operate/fleet.md); ENV=file names the variables
fleet: ## start this node's processes and stay; PROCESSES=web,delivery*2 MIGRATE=1
	@deploy/bootstrap.sh runtime
	@$(FLEET) up $(ENV_FILE) $(if $(PROCESSES),--processes "$(PROCESSES)") \
		$(if $(filter-out 0,$(MIGRATE)),--migrate)

web: ## panel and API alone, in the foreground
	@$(FLEET) exec $(ENV_FILE) web

smtpd: ## takes mail by SMTP, where SMTPD_LISTEN says
	@$(FLEET) exec $(ENV_FILE) smtpd

worker-priority: ## priority mail
	@$(FLEET) exec $(ENV_FILE) priority

worker-delivery: ## all other mail; N=2 is the second of this node
	@$(FLEET) exec $(ENV_FILE) delivery$(N)

worker-event: ## statistics and stop list from what happened
	@$(FLEET) exec $(ENV_FILE) event

worker-upkeep: ## chores of the node, mailboxes
	@$(FLEET) exec $(ENV_FILE) upkeep

worker-control: ## jobs that people start, alerts
	@$(FLEET) exec $(ENV_FILE) control

beat: ## rings for chores; one on each node
	@$(FLEET) exec $(ENV_FILE) beat

flower: ## a window on the workers; FLOWER_BASIC_AUTH=user:password
	@$(FLEET) exec $(ENV_FILE) flower

## For developers
test: ## run the suites; ONLY=core,io,control,workers,e2e for some
	@deploy/bootstrap.sh dev
	@deploy/test.sh "$(ONLY)"

soak: ## kill and break everything for MINUTES=10 under load, and count; SEED=7 FAULTS='kill.*' BROKER=valkey
	@deploy/bootstrap.sh dev
	@deploy/soak.sh --minutes "$(MINUTES)" $(if $(SEED),--seed "$(SEED)") \
		$(if $(FAULTS),--faults "$(FAULTS)") $(if $(BROKER),--broker "$(BROKER)")

test-mongodb: ## the shared spool on a real engine, DocumentDB; root, 600 MB and a minute once
	@deploy/bootstrap.sh dev
	@deploy/test-mongodb.sh

check: ## lint, format, types, import contracts, migrations
	@deploy/bootstrap.sh dev
	@deploy/check.sh

lock: ## compile requirements.in and requirements-dev.in into the pinned .txt files
	@deploy/bootstrap.sh dev
	@deploy/lock.sh

clean: ## remove the venv, caches and var/ (all data of the embedded stack)
	@deploy/clean.sh
