# shellcheck shell=bash
# containerd with its CNI network and a read-only image registry, all configured and kept below one directory. The demo
# runs them on the host's network, the test nodes inside namespaces. Sourced after lib.sh. DIR is always a `short_path`.

# Prints a name for DIR that leaves room for a socket's path below it: those end at 107 bytes, and containerd puts
# "containerd.sock.ttrpc" there. A long DIR gets a symbolic link in /tmp.
short_path() { # DIR
  local dir=$1 link
  if ((${#dir} <= 80)); then
    echo "$dir"
    return
  fi
  link=/tmp/garrison-$(printf %s "$dir" | sha256sum | cut -c1-12)
  [[ -L $link ]] || ln -s "$dir" "$link"
  # Anybody may write to /tmp, so what is there need not be ours.
  [[ $(readlink "$link") == "$dir" ]] || die "$link is in the way: it should be a link to $dir; remove it"
  echo "$link"
}

# Removes DIR and the link to it, if there is one.
remove_directory() { # DIR
  local real
  real=$(realpath "$1")
  [[ ! -L $1 ]] || rm -f "$1"
  rm -rf --one-file-system "$real"
}

cni_bin_dir() {
  if [[ -e /usr/lib/cni/portmap ]]; then echo /usr/lib/cni; else echo /opt/cni/bin; fi
}

# A sandbox asks for a negative oom_score_adj, which takes CAP_SYS_RESOURCE. Where root lacks it, as inside some containers
# and virtual machines, runc would fail without a word that helps.
lacks_sys_resource() {
  local effective
  effective=$(sed -n 's/^CapEff:\t//p' /proc/self/status)
  (((0x$effective >> 24 & 1) == 0))
}

write_containerd_config() { # DIR
  local dir=$1 restrict=false
  lacks_sys_resource && restrict=true
  mkdir -p "$dir"/{cni,registries}
  cat >"$dir/containerd.toml" <<TOML
version = 2
root = "$dir/root"
state = "$dir/state"
[grpc]
  address = "$dir/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$dir/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = $restrict
  sandbox_image = "registry.k8s.io/pause:3.6"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$(cni_bin_dir)"
    conf_dir = "$dir/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "$dir/registries"
TOML
}

write_cni_config() { # DIR NETWORK BRIDGE SUBNET
  cat >"$1/cni/10-$2.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "$2", "plugins": [
  {"type": "bridge", "bridge": "$3", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$1/ipam", "ranges": [[{"subnet": "$4"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
]}
JSON
}

# Every registry a pod may name is served by the local one, and nothing else is asked: `_default` is containerd's word
# for all hosts without an entry of their own.
write_mirror() { # DIR PORT
  mkdir -p "$1/registries/_default"
  cat >"$1/registries/_default/hosts.toml" <<TOML
server = "http://127.0.0.1:$2"
[host."http://127.0.0.1:$2"]
  capabilities = ["pull", "resolve"]
TOML
}

write_registry_config() { # DIR PORT STORAGE READONLY
  cat >"$1/registry.yml" <<YAML
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: "$3"}
  maintenance: {uploadpurging: {enabled: false}, readonly: {enabled: $4}}
http: {addr: "127.0.0.1:$2", secret: unused}
YAML
}

start_registry() { # DIR PORT BINARY
  start_daemon "$1" registry "$3" serve "$1/registry.yml"
  wait_until 10 "the registry (see $1/registry.log)" curl -fsS "http://127.0.0.1:$2/v2/"
}

start_containerd() { # DIR
  start_daemon "$1" containerd containerd --config "$1/containerd.toml" --log-level warn
  wait_until 20 "containerd (see $1/containerd.log)" ctr --address "$1/containerd.sock" version
}

# Prints the directory of every cgroup hierarchy: the one of cgroup v2, or one for each controller of v1.
cgroup_hierarchies() {
  local hierarchy
  if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    echo /sys/fs/cgroup
    return
  fi
  for hierarchy in /sys/fs/cgroup/*; do
    [[ -L $hierarchy || ! -e $hierarchy/cgroup.procs ]] || echo "$hierarchy"
  done
}

# Removes a cgroup with all below it; fails while the kernel has not yet let go of the last process.
remove_cgroups() { # PATH below every hierarchy
  local hierarchy
  while read -r hierarchy; do
    [[ ! -d $hierarchy/$1 ]] || find "$hierarchy/$1" -depth -type d -exec rmdir {} + || return 1
  done < <(cgroup_hierarchies)
}
