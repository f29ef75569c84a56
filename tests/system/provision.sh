#!/bin/sh
# What a Debian host has to have before Garrison is installed on it: containerd, CNI plugins and iptables, and containerd told of the
# plugins and of its cgroup driver. The Vagrantfile beside calls it on its machines, nodes.sh and vm.sh for theirs.
#
#   provision.sh DRIVER [ROOT]   cgroupfs or systemd; ROOT is a file system that has the packages already and does not run yet
#
# Environment: REGISTRY (http://HOST:PORT) is asked for every image in place of the registries they name; RESTRICT=true is for
# where root lacks CAP_SYS_RESOURCE, as in some containers.
set -eu

driver=$1 root=${2:-}
case $driver in cgroupfs) slices=false ;; systemd) slices=true ;; *) echo "the driver is cgroupfs or systemd" >&2 && exit 1 ;; esac

if [ -z "$root" ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends containerd runc containernetworking-plugins iptables
fi

mkdir -p "$root/etc/containerd"
cat >"$root/etc/containerd/config.toml" <<TOML
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = ${RESTRICT:-false}
  sandbox_image = "registry.k8s.io/pause:3.6"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = $slices
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/registries"
TOML
if [ -n "${REGISTRY:-}" ]; then
  mkdir -p "$root/etc/containerd/registries/_default"
  cat >"$root/etc/containerd/registries/_default/hosts.toml" <<TOML
server = "$REGISTRY"
[host."$REGISTRY"]
  capabilities = ["pull", "resolve"]
TOML
fi

[ -n "$root" ] || systemctl restart containerd
