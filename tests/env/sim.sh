#!/usr/bin/env bash
# Plays simulated fleets (src/sim.rs). Large ones are built with the profile `sim`, which takes longer and plays faster; PROFILE says
# otherwise.
#
#   tests/env/sim.sh one SEED NODES HOURS     one seed: each step, then what should not have been
#   tests/env/sim.sh soak SEED NODES HOURS    this seed, or a new one if it is empty, and the next, until one fails
#
# GARRISON_SIM_LOG=garrison=debug also shows what control and the agents log.
source "$(dirname "$0")/lib.sh"
cd "$top"
mode=$1 seed=$2 GARRISON_SIM_NODES=$3 GARRISON_SIM_HOURS=$4
export GARRISON_SIM_NODES GARRISON_SIM_HOURS
profile="test"
((GARRISON_SIM_NODES < 50)) || profile=sim

build() { # prints the path of the test program
  cargo test --lib --no-run --profile "${PROFILE:-$profile}" --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

play() { # SEED
  GARRISON_SIM_SEED=$1 "$program" sim::tests::the_seed_that_is_named --exact --nocapture --test-threads=1
}

[[ $mode == soak || -n $seed ]] || die "which seed? make sim SEED=1"
program=$(build)
if [[ $mode == one ]]; then
  play "$seed"
  exit
fi
output=$(mktemp)
trap 'rm -f "$output"' EXIT
for ((seed = ${seed:-$(date +%s)}; ; seed++)); do
  if play "$seed" >"$output" 2>&1; then
    echo "seed $seed: as it should be"
  else
    cat "$output"
    die "make sim SEED=$seed NODES=$GARRISON_SIM_NODES HOURS=$GARRISON_SIM_HOURS"
  fi
done
