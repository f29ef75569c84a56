# The few things to type. What they do is in tests/env, cargo and .ci/run; CONTRIBUTING.md explains.

.PHONY: help build test sim soak-sim soak fuzz demo demo-down bench-idle bench-start bench-boot bench-life bench-watch packages test-system test-vm ci

help:
	@echo 'make demo          run garrison here with a containerd of its own, apply examples/, show the result'
	@echo 'make demo-down     remove all of it'
	@echo 'make test          the whole test suite; the tests on real containerd take root'
	@echo 'make sim SEED=1     a simulated fleet: what happened and what should not have; NODES=3 HOURS=1 for more'
	@echo 'make soak-sim      one new seed after the other until one fails; SEED, NODES and HOURS as above'
	@echo 'make soak          the loops of faults on real containerd for ten minutes each; takes root; SECONDS=3600 for longer'
	@echo 'make fuzz          searches for input that garrison does not stand, a minute for each kind; SECONDS=600 for longer'
	@echo 'make bench-idle    what the idle agent costs: memory, CPU; SECONDS=600 watches each case for longer'
	@echo 'make bench-start   what the agent adds to the bare CRI calls when a pod starts; takes root; RUNS=50 for more'
	@echo 'make bench-boot    how long daemons take to run again after a power cut, beside bare CRI calls; takes root'
	@echo 'make bench-life    from POST to Ready, from DELETE to gone, many at once, restarts, beside bare CRI calls; takes root'
	@echo 'make bench-watch   what 2000 watches cost control, under writes and a flood of bad requests; WATCHES=, WRITES= for others'
	@echo 'make packages      the .deb and .rpm in target/packages; ARCH="amd64 arm64" cross-builds, too'
	@echo 'make test-system   installs them on nodes with systemd (in Docker) and tries everything; root'
	@echo 'make test-vm       installs the .deb in an emulated machine with cgroup v2 and reboots it without network; root'
	@echo 'make build         the release binary, target/release/garrison'
	@echo 'make ci            everything a change has to pass'

build:
	tests/env/packages.sh build
	cargo build --release

test:
	tests/env/test.sh

sim soak-sim: NODES = 3
sim soak-sim: HOURS = 1
sim:
	@tests/env/sim.sh one "$(SEED)" $(NODES) $(HOURS)

soak-sim:
	@tests/env/sim.sh soak "$(SEED)" $(NODES) $(HOURS)

soak: SECONDS = 600
soak:
	GARRISON_SOAK_SECS=$(SECONDS) tests/env/test.sh --test containerd -- --nocapture faults leaks

fuzz: SECONDS = 60
fuzz:
	@tests/env/packages.sh fuzz
	@tests/fuzz/run.sh $(SECONDS)

demo:
	@tests/env/demo.sh up

demo-down:
	@tests/env/demo.sh down

bench-idle: SECONDS = 60
bench-idle:
	@tests/bench/idle.sh $(SECONDS)

bench-start bench-boot bench-life:
	@tests/env/packages.sh run
	@tests/env/images.sh
	@cargo bench --bench $(@:bench-%=%)

# Both ends of every connection take a file.
bench-watch:
	@ulimit -n "$$(ulimit -Hn)" && cargo bench --bench watch

packages: ARCH = $(shell dpkg --print-architecture)
packages:
	tests/env/packages.sh packages
	packaging/build.sh $(ARCH)

test-system:
	tests/system/run.sh

test-vm:
	tests/system/vm.sh

ci:
	.ci/run
