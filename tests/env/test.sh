#!/usr/bin/env bash
# Runs the whole test suite, installing what it needs. Arguments go to `cargo test`.
source "$(dirname "$0")/lib.sh"

"$env_dir/packages.sh" test
"$env_dir/images.sh"
"$env_dir/clients.sh"
PATH=$target/clients:$PATH

# The tests on real containerd make namespaces, mounts and cgroups. cargo itself stays with the user; only the test programs it
# has built run as root.
if ((EUID != 0)); then
  triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
  export "CARGO_TARGET_${triple}_RUNNER=sudo -E env PATH=$PATH"
fi
cd "$top"
cargo test "$@"
