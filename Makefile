SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export GOFLAGS := -buildvcs=false
BIN := $(CURDIR)/.bin
BUILD := $(CURDIR)/.build
MODULES := proto pkg services/dispatcher services/completion-tracker services/phase-gate services/console services/sluice
TESTFLAGS ?= -race -shuffle=on -count=1

.PHONY: help build demo tutorial up emulators test lint verify generate bench bench-makespan bench-scale bench-gcp bench-telemetry tools modules infra deploy deploy-rollback deploy-pipelines deploy-try images

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

build: ## build the sluice program into .build
	go build -o $(BUILD)/sluice ./services/sluice

demo: build ## run a whole season against the example platform, and summarize
	@SLUICE=$(BUILD)/sluice deploy/demo.sh

tutorial: ## run every command of the README's tutorial
	@deploy/tutorial.sh

up: emulators build ## run the services as processes on Google's emulators, with the example platform, until Ctrl-C
	@for s in dispatcher completion-tracker phase-gate console; do go build -o $(BUILD)/$$s ./services/$$s; done
	@go build -o $(BUILD)/up ./services/sluice/up
	@exec $(BUILD)/emulators -quiet -- $(BUILD)/up -bin $(BUILD) $(UPFLAGS)

emulators: ## build what starts the emulators; the first time this takes about 5 minutes
	@deploy/with-emulators.sh -build

test: ## run every test of every module, those of the emulators included
	deploy/with-emulators.sh go test $(TESTFLAGS) -timeout 20m work

lint: tools ## run the linters
	@for m in $(MODULES); do echo "lint $$m"; (cd $$m && $(BIN)/golangci-lint run $(LINTFLAGS) --config $(CURDIR)/.golangci.yml ./...); done

generate: tools ## regenerate what is generated
	cd proto && PATH=$(BIN):$$PATH $(BIN)/buf generate
	go run ./pkg/pipeline/schemagen > deploy/pipelines/pipeline.schema.json
	cp deploy/pipelines/nba/pipeline.yaml services/sluice/local/nba.yaml
	go run ./services/sluice/names infra

verify: generate ## fail when generated files or go.mod files are not up to date
	cd proto && $(BIN)/buf lint
	@for m in $(MODULES); do (cd $$m && GOWORK=off go mod tidy -diff); done
	git diff --exit-code -- proto/gen deploy/pipelines services/sluice/local/nba.yaml infra
	@for s in infra/schemas/*.proto; do $(BIN)/buf build -o /dev/null $$s; done

modules: ## build each module by itself, as the workspace hides missing requirements
	@for m in $(MODULES); do echo "build $$m"; (cd $$m && GOWORK=off go build ./... && GOWORK=off go vet ./...); done
	cd deploy/emulators && GOWORK=off CGO_ENABLED=0 go vet ./... && GOWORK=off go mod tidy -diff

bench: ## measure: the reference workload on the embedded placement
	go test -run '^$$' -bench NBA4 -benchtime 1x -timeout 20m ./services/sluice/scenario

bench-makespan: ## compare orders, and the scripts of old, on the reference workload in virtual time
	go test -run '^$$' -bench Makespan -benchtime 1x ./services/sluice/scenario

bench-scale: ## measure: time per run and memory per date for 1,000 to 100,000 dates
	go test -run '^$$' -bench Scale -benchtime 1x -timeout 30m ./services/sluice/scenario

bench-gcp: emulators ## measure: the services over Google's emulators, and completions as merges beside transactions
	deploy/with-emulators.sh go test -run '^$$' -bench GCP -benchtime 1x -timeout 20m ./services/sluice/scenario

infra: ## check the infrastructure: formatting, the provider's schema, and the alerts on made-up series
	@deploy/infra-check.sh

deploy: build tools ## deploy one service: make deploy SERVICE=phase-gate PROJECT=my-project REGION=us-west2
	@deploy/deploy.sh service "$(SERVICE)"

deploy-rollback: ## give a service's traffic back to the revision before: SERVICE, PROJECT and REGION as for deploy
	@deploy/deploy.sh rollback "$(SERVICE)"

deploy-pipelines: build ## check the pipeline files and copy them to the bucket: PROJECT and REGION as for deploy
	@deploy/deploy.sh pipelines

deploy-try: build ## have the real gcloud parse every command line of deploys, without an account
	@deploy/try.sh

images: tools ## build the images, push them to a registry on 127.0.0.1, and run what is in them
	@deploy/images-test.sh

bench-telemetry: ## measure: what telling of a message costs
	go test -run '^$$' -bench Handler ./pkg/telemetry

tools: ## install the tools at pinned versions into .bin
	@deploy/tools.sh $(BIN)
