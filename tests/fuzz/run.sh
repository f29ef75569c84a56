#!/usr/bin/env bash
# Searches for bytes that garrison does not stand: libFuzzer over each kind of input of src/testing/fuzz.rs, with what it has
# learned kept in target/fuzz/corpus. Prints a line for each; a crash leaves its input in target/fuzz/crashes and fails at the end.
#
#   run.sh [SECONDS [TARGET...]]    how long each is fuzzed (60), and which (all)
#
# To see a crash again: GARRISON_FUZZ=TARGET target/fuzz/fuzz target/fuzz/crashes/FILE
source "$(dirname "$0")/../env/lib.sh"

fuzz=$target/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')

# What `cargo fuzz --sanitizer none` does, which needs no nightly compiler: counters at every edge and the operands of
# comparisons. Only the target is built so, not what the build itself runs.
build() {
  local flags=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions)
  # The same versions as the program's; cargo adds what only the fuzzer has.
  cp "$top/Cargo.lock" "$top/tests/fuzz/Cargo.lock"
  CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${flags[*]}") CARGO_TARGET_DIR=$fuzz/build \
    cargo build --release --target "$host" --manifest-path "$top/tests/fuzz/Cargo.toml"
  ln -sf "build/$host/release/fuzz" "$fuzz/fuzz"
}

run() { # TARGET SECONDS
  local corpus=$fuzz/corpus/$1 seeds=$fuzz/seeds/$1 log=$fuzz/$1.log runs edges
  mkdir -p "$corpus" "$seeds" "$fuzz/crashes"
  local options=(-max_total_time="$2" -max_len=32768 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1
    -artifact_prefix="$fuzz/crashes/$1-")
  if GARRISON_FUZZ=$1 GARRISON_FUZZ_SEEDS=$seeds "$fuzz/fuzz" "${options[@]}" "$corpus" "$seeds" >"$log" 2>&1; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    edges=$(grep -o 'cov: [0-9]*' "$log" | tail -n 1)
    printf '%-12s %9s runs, %6s edges, %s inputs\n' "$1" "$runs" "${edges#cov: }" "$(find "$corpus" -type f | wc -l)"
  else
    printf '%-12s FAILED, see %s\n' "$1" "$log"
    grep -m 3 -A 2 -e 'panicked at' -e 'ERROR: libFuzzer' -e 'Test unit written' "$log"
    return 1
  fi
}

seconds=${1:-60} failed=0
shift || true
mkdir -p "$fuzz"
build
mapfile -t all < <("$fuzz/fuzz" 2>/dev/null)
(($#)) || set -- "${all[@]}"
for name; do run "$name" "$seconds" || failed=1; done
exit "$failed"
