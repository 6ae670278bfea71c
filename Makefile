# Ruche: S3-compatible object storage. `make run` starts it, `make test` tests it.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
BIN     := $(CURDIR)/bin/ruche
UNIT    := $(shell go list ./... 2>/dev/null | grep -v '/conformance')

.PHONY: help build run test unit long deep soak blackbox replicated lint fuzz conformance bench proof docs check clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

build: ## bin/ruche
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/ruche

run: build ## a store in ./data on 127.0.0.1:9000
	$(BIN) serve --data ./data

test: unit long blackbox ## everything a change must pass, under 10 minutes

unit: ## unit, datadriven and contract tests with the race detector
	go test -race -short -timeout 15m $(UNIT)

long: ## what -short leaves out, without it: 1,000 power cuts, 100 simulated clusters, long bodies, faults
	go test -timeout 25m ./cmd/... ./gateway/object ./gateway/recovery ./metadata/replica ./metadata/simtest ./node

deep: build ## 7,000 power cuts of a drive and 3,000 of whole stores, 24 planted bugs, every crash point, rot; 250 kill -9
	RUCHE_SIM_CUTS=7000 go test -count=1 -timeout 25m -run 'PowerCuts$$' ./node
	go test -count=1 -timeout 25m ./gateway/simtest
	RUCHE_KILLS=250 RUCHE_BIN=$(BIN) go test -count=1 -timeout 25m ./conformance/kill

soak: ## 100,000 power cuts of a drive and 1,000,000 of whole stores, 10,000 objects that rot, 5,000 simulated clusters, 600 losses of all metadata, 10,200 kill -9 and 3,000,000 checked calls with 1, 3 and 5 copies, 10,200 power cuts of devices
	RUCHE_SIM_CUTS=100000 go test -count=1 -timeout 120m -run 'PowerCuts$$' ./node -sim-seed=$$(date +%s)
	seed=$$(date +%s); for n in $$(seq 40); do \
	  go test -count=1 -timeout 240m -v -run 'PowerCuts$$' ./gateway/simtest -sim-seed=$$((seed + n)) -sim-cuts=25000 || exit 1; \
	done
	go test -count=1 -parallel 2 -timeout 240m -v -skip 'PowerCuts$$' ./gateway/simtest -sim-seed=$$(date +%s) -sim-objects=10000 -sim-all
	seed=$$(date +%s); for n in $$(seq 100); do \
	  go test -count=1 -timeout 60m -run 'Cluster$$' ./metadata/simtest -sim-seed=$$((seed + 50 * n)) -sim-seeds=50 || exit 1; \
	done
	RUCHE_DISASTERS=200 go test -count=1 -timeout 240m -run 'Disasters$$' ./gateway/object -disaster-seed=$$(date +%s)
	$(MAKE) build
	for n in 1 3 5; do \
	  RUCHE_METADATA_REPLICAS=$$n RUCHE_BIN=$(BIN) RUCHE_KILLS=3400 go test -count=1 -timeout 240m -v ./conformance/kill || exit 1; \
	  RUCHE_METADATA_REPLICAS=$$n RUCHE_BIN=$(BIN) RUCHE_LIN_OPS=1000000 go test -count=1 -timeout 240m -v -run Linear ./conformance/linear || exit 1; \
	done
	RUCHE_BIN=$(BIN) RUCHE_LIN_OPS=200000 RUCHE_CUTS=3400 go test -count=1 -timeout 600m -v ./conformance/devices
	RUCHE_BIN=$(BIN) RUCHE_COPY_OBJECTS=1000000 go test -count=1 -parallel 1 -timeout 240m -v ./conformance/copies

blackbox: build ## S3 suite, Go SDK clients, 50 kill -9, order of answers and memory against servers of our own
	RUCHE_BIN=$(BIN) go test -count=1 -p 1 -timeout 15m ./conformance ./conformance/kill ./conformance/linear ./conformance/memory ./conformance/connections ./conformance/upgrade

replicated: build ## S3 suite, 200 kill -9 and order of answers once more with three and five copies of the metadata; faults and changes of copies
	RUCHE_METADATA_REPLICAS=3 RUCHE_KILLS=120 RUCHE_BIN=$(BIN) go test -count=1 -p 1 -timeout 15m ./conformance ./conformance/kill ./conformance/linear
	RUCHE_METADATA_REPLICAS=5 RUCHE_KILLS=80 RUCHE_LIN_OPS=5000 RUCHE_BIN=$(BIN) go test -count=1 -p 1 -timeout 15m ./conformance/kill ./conformance/linear
	RUCHE_BIN=$(BIN) go test -count=1 -p 1 -timeout 15m ./conformance/faults ./conformance/copies

lint: ## gofmt, vet, staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	go tool staticcheck ./...

fuzz: ## every fuzz target for FUZZTIME (10s), as many at a time as there are processors
	./conformance/tools/fuzz.sh $(or $(FUZZTIME),10s)

conformance: build ## every real client, over TLS and plain HTTP; as root, devices that fail and power cuts
	./conformance/tools/install.sh
	RUCHE_BIN=$(BIN) RUCHE_CLIENTS=1 go test -count=1 -timeout 40m ./conformance/clients
	RUCHE_BIN=$(BIN) go test -count=1 -v -timeout 20m ./conformance/devices

bench: build ## load on a server of our own; BENCHFLAGS="--peer URL --peer-pid N ..." compares
	go run ./bench --serve $(BIN) --commit $(VERSION) $(BENCHFLAGS)

proof: build ## the tests that count, their figures filed in bench/results
	RUCHE_BIN=$(BIN) go test -count=1 -p 1 -timeout 60m -json ./node ./gateway/object ./gateway/simtest ./metadata/simtest \
	  ./conformance/kill ./conformance/linear ./conformance/memory ./conformance/devices | go run ./bench/proof --commit $(VERSION)

docs: ## docs/performance.md and docs/durability.md, from the figures in bench/results
	go run ./bench/docs

check: lint test deep fuzz replicated conformance ## all of CI

clean: ## remove what was built; data stays
	rm -rf bin .cache
