#!/usr/bin/env bash
# A node for tests: containerd, a CNI network and a registry that serves target/images under every registry's name, in
# namespaces of their own (network, mount, pid, uts, ipc, cgroup). Inside, /run, /etc and /var are private, so a daemon under
# test can use its default paths and leaves nothing on the host; hostPorts never clash. Several nodes run side by side. Root only.
#
#   node.sh run  NAME DIR [FLEET]  up; then waits until stdin ends, and takes the node down. A test that holds the other
#                                  end of the pipe cannot leave its node behind, however it dies
#   node.sh up   NAME DIR [FLEET]  makes DIR, starts the node, prints the path of containerd's socket (from outside and inside)
#   node.sh exec NAME DIR CMD...   runs CMD inside
#   node.sh start-containerd NAME DIR    starts it again after a test has ended it; its pid inside is in DIR/containerd.pid
#   node.sh down NAME DIR          ends every process of the node, removes its cgroups and DIR
#
# The node's address is 10.99.0.1 on eth0; its pods get addresses of 10.98.0.0/24. It reaches nobody outside.
# In there /run/containerd/containerd.sock is containerd's socket too.
#
# FLEET connects nodes: `hub` makes one without containerd and registry whose eth0 is a bridge, `HUB-DIR NUMBER` one with the address
# 10.99.0.NUMBER that is plugged into the bridge of the hub with that DIR. In there the other end of its cable is called
# port-NUMBER: `ip link set port-NUMBER down` cuts it off.
source "$(dirname "$0")/lib.sh"
source "$env_dir/runtime.sh"

registry_port=5000

# The node's cgroup is the root of what its containers see. Its own daemons sit one level below in `system`, since cgroup v2
# allows no processes beside child groups.
make_cgroups() { # NAME
  local hierarchy file
  while read -r hierarchy; do
    mkdir -p "$hierarchy/garrison-$1"
    # A cpuset of cgroup v1 starts empty and takes no process until it has been given processors and memory.
    for file in cpuset.mems cpuset.cpus; do
      [[ ! -e $hierarchy/cgroup.clone_children || ! -e $hierarchy/$file ]] ||
        cat "$hierarchy/$file" >"$hierarchy/garrison-$1/$file"
    done
    [[ ! -e $hierarchy/cgroup.clone_children ]] || echo 1 >"$hierarchy/garrison-$1/cgroup.clone_children"
    mkdir -p "$hierarchy/garrison-$1/system"
  done < <(cgroup_hierarchies)
}

enter_cgroups() { # PID PATH: below every hierarchy
  local hierarchy
  while read -r hierarchy; do echo "$1" >"$hierarchy/$2/cgroup.procs"; done < <(cgroup_hierarchies)
}

# The rest of this group runs inside the new namespaces, as process 1.

mount_cgroups() {
  local hierarchy options
  local -A v1
  while read -r hierarchy; do
    options=$(findmnt -rno FSTYPE,OPTIONS "$hierarchy")
    v1[$hierarchy]=$options
  done < <(cgroup_hierarchies)
  # A new sysfs shows this network namespace's devices; the cgroup mounts that were below the old one follow it.
  mount -t sysfs sysfs /sys
  [[ -n ${v1[/sys/fs/cgroup]:-} ]] || mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  for hierarchy in "${!v1[@]}"; do
    mkdir -p "$hierarchy"
    case ${v1[$hierarchy]} in
      cgroup2*) mount -t cgroup2 cgroup2 "$hierarchy" ;;
      *name=systemd*) mount -t cgroup -o none,name=systemd cgroup "$hierarchy" ;;
      *) mount -t cgroup -o "$(basename "$hierarchy")" cgroup "$hierarchy" ;;
    esac
  done
}

# Makes /etc and /var copies on write, and /run empty.
mount_private_directories() { # NAME DIR
  local name=$1 dir=$2 over
  for over in etc var; do
    mkdir -p "$dir/$over" "$dir/$over.work"
    mount -t overlay -o "lowerdir=/$over,upperdir=$dir/$over,workdir=$dir/$over.work" overlay "/$over"
  done
  mount -t tmpfs -o mode=755 tmpfs /run
  mkdir -p /run/lock /run/containerd
  ln -s "$dir/containerd.sock" /run/containerd/containerd.sock

  # A node is known by its machine id and its name. Its name server refuses at once: nothing a test does depends on
  # the host's.
  hostname "$name"
  echo "$name" >/etc/hostname
  printf %s "$name" | md5sum | cut -c1-32 >/etc/machine-id
  rm -f /etc/resolv.conf
  echo "nameserver 10.99.0.1" >/etc/resolv.conf
}

make_network() { # [hub | HUB-DIR NUMBER]
  ip link set lo up
  if [[ ${1:-} == hub ]]; then
    ip link add eth0 type bridge
  else
    # Both ends stay here, until `plug`: the device has a carrier and an address, and nobody is at the other end.
    ip link add eth0 type veth peer name eth0-peer
    ip link set eth0-peer up
  fi
  ip link set eth0 up
  ip addr add "10.99.0.${2:-1}/24" dev eth0
  ip route add default via 10.99.0.254
  echo 1 >/proc/sys/net/ipv4/ip_forward
}

become_init() { # NAME DIR [FLEET]
  # Shared among the node's own mounts, as bidirectional mount propagation wants; nothing goes to the host.
  mount --make-rshared /
  mount_cgroups
  enter_cgroups $$ system
  mount_private_directories "$1" "$2"
  make_network "${@:3}"
  touch "$2/booted"
  exec "$images/bin/pause"
}

# From outside again.

boot() { # NAME DIR [FLEET]
  make_cgroups "$1"
  (
    enter_cgroups "$BASHPID" "garrison-$1"
    # When this process ends, by whatever signal, the kernel ends everything in the node.
    start_daemon "$2" node unshare --net --mount --propagation private --pid --fork --kill-child=KILL --mount-proc \
      --uts --ipc --cgroup bash "$env_dir/node.sh" _init "$@"
  )
  wait_until 10 "the node to boot (see $2/node.log)" test -e "$2/booted"
  # It had to be in the node's own cgroup when it made the cgroup namespace, and must not stay there.
  enter_cgroups "$(<"$2/node.pid")" "garrison-$1/system"
}

# The far end of the node's cable goes into the hub, and with either of both.
plug() { # DIR HUB-DIR NUMBER
  local node hub
  node=$(<"$1/node.pid")
  hub=$(<"$2/node.pid")
  nsenter --target "$node" --net ip link set eth0-peer netns "$hub" name "port-$3"
  nsenter --target "$hub" --net ip link set "port-$3" master eth0 up
}

in_node() { # NAME DIR CMD...
  local name=$1 dir=$2 init
  shift 2
  init=$(<"/proc/$(<"$dir/node.pid")/task/$(<"$dir/node.pid")/children")
  (
    enter_cgroups "$BASHPID" "garrison-$name/system"
    exec nsenter --target "${init%% *}" --all "$@"
  )
}

up() { # NAME DIR [FLEET]
  local name=$1 dir=$2
  ! is_running "$dir" node || die "node $name is up already"
  write_containerd_config "$dir"
  write_cni_config "$dir" pods cni0 10.98.0.0/24
  write_mirror "$dir" "$registry_port"
  write_registry_config "$dir" "$registry_port" "$images/registry" true
  boot "$@"
  (($# < 4)) || plug "$dir" "$3" "$4"
  [[ ${3:-} == hub ]] || in_node "$name" "$dir" bash "$env_dir/node.sh" _start "$name" "$dir"
  echo "$dir/containerd.sock"
}

down() { # NAME DIR
  local name=$1 dir=$2 init=
  if is_running "$dir" node; then
    init=$(<"/proc/$(<"$dir/node.pid")/task/$(<"$dir/node.pid")/children")
    kill -KILL "$(<"$dir/node.pid")"
    # The last process of a pid namespace to go is its first.
    [[ -z $init ]] || wait_until 10 "the node's processes to end" test ! -e "/proc/${init%% *}"
  fi
  wait_until 10 "the node's cgroups to be empty" remove_cgroups "garrison-$name"
  remove_directory "$dir"
}

main() {
  (($# >= 3)) || die "usage: node.sh run|up|exec|start-containerd|down NAME DIR [FLEET | CMD...]"
  ((EUID == 0)) || die "a test node takes root: it makes namespaces, mounts and cgroups"
  # Not local: the trap of `run` reads them after this function has returned.
  verb=$1 name=$2
  mkdir -p "$3"
  dir=$(short_path "$(cd "$3" && pwd -P)")
  case $dir in
    /etc/* | /var/* | /run/*) die "$dir is below a directory the node replaces inside; use another one" ;;
  esac
  shift 3
  case $verb in
    up) up "$name" "$dir" "$@" ;;
    run)
      # An interrupt at the terminal reaches this shell too; it must not stop it before the node is down. A handler,
      # since an ignored signal would stay ignored in everything started below, containers included.
      trap : INT TERM
      trap 'down "$name" "$dir"' EXIT
      up "$name" "$dir" "$@"
      cat >/dev/null || true
      ;;
    exec) in_node "$name" "$dir" "$@" ;;
    start-containerd) in_node "$name" "$dir" bash "$env_dir/node.sh" _start-containerd "$name" "$dir" ;;
    down) down "$name" "$dir" ;;
    _init) become_init "$name" "$dir" "$@" ;;
    _start)
      start_registry "$dir" "$registry_port" "$images/bin/docker-registry"
      start_containerd "$dir"
      ;;
    _start-containerd) start_containerd "$dir" ;;
    *) die "unknown verb $verb" ;;
  esac
}

main "$@"
