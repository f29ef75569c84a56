# shellcheck shell=bash
# Nodes with a real init: containers of a Docker of our own with systemd as process 1, from Debian packages only, and a
# registry beside them. Docker, its containerd and the registry live in a network namespace of their own: on the host,
# dockerd would change its firewall. Sourced after lib.sh and runtime.sh, by who sets dir. Root only.
# shellcheck disable=SC2154 # target, images: of lib.sh; dir: of whoever sources this
# shellcheck disable=SC2016 # what is in single quotes is for the shell on a node

system=$target/system
netns=garrison-system
# Everything docker runs is below this cgroup.
cgroup=garrison-system
gateway=10.97.0.1
registry_port=5000

dock() { timeout 120 docker -H "unix://$dir/docker.sock" "$@"; }

in_net() { nsenter --net="/run/netns/$netns" "$@"; }

# Runs CMD on a node.
on() { # NODE CMD...
  local node=$1
  shift
  dock exec -i "$node" "$@"
}

# --- the machine under the nodes

# `docker run --privileged` asks for CAP_SYS_RESOURCE and negative OOM scores; root may lack the right to give them.
write_runc_wrapper() {
  cat >"$dir/runc-wrapper" <<'SH'
#!/bin/sh
fix() { [ -f "$1" ] && jq "$2" "$1" >"$1.new" && cat "$1.new" >"$1" && rm -f "$1.new"; }
F='(.capabilities // {}) |= with_entries(.value -= ["CAP_SYS_RESOURCE"]) | if (.oomScoreAdj // 0) < 0 then .oomScoreAdj = 0 else . end'
prev=
for a; do
  case $prev in
    --bundle | -b) fix "$a/config.json" ".process |= ($F)" ;;
    --process | -p) fix "$a" "$F" ;;
  esac
  prev=$a
done
exec runc "$@"
SH
  if ! lacks_sys_resource; then printf '#!/bin/sh\nexec runc "$@"\n' >"$dir/runc-wrapper"; fi
  chmod 755 "$dir/runc-wrapper"
}

start_docker() {
  mkdir -p "$dir"
  write_runc_wrapper
  ip netns add "$netns"
  ip -n "$netns" link set lo up
  cat >"$dir/containerd.toml" <<TOML
version = 2
root = "$dir/containerd"
state = "$dir/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$dir/containerd.sock"
TOML
  printf '{"runtimes": {"nodes": {"path": "%s/runc-wrapper"}}}' "$dir" >"$dir/daemon.json"
  start_daemon "$dir" containerd nsenter --net="/run/netns/$netns" containerd --config "$dir/containerd.toml" --log-level warn
  wait_until 20 "containerd (see $dir/containerd.log)" ctr --address "$dir/containerd.sock" version
  start_daemon "$dir" dockerd nsenter --net="/run/netns/$netns" dockerd --config-file "$dir/daemon.json" --data-root "$dir/docker" \
    --exec-root "$dir/exec" --pidfile "$dir/docker.pid" --host "unix://$dir/docker.sock" --containerd "$dir/containerd.sock" \
    --oom-score-adjust 0 --cgroup-parent "/$cgroup"
  wait_until 30 "dockerd (see $dir/dockerd.log)" dock version
  dock network create --subnet 10.97.0.0/24 --gateway "$gateway" nodes >/dev/null
}

start_image_registry() {
  write_registry_config "$dir" "$registry_port" "$images/registry" true
  sed -i "s/127.0.0.1:$registry_port/$gateway:$registry_port/" "$dir/registry.yml"
  start_daemon "$dir" registry nsenter --net="/run/netns/$netns" "$images/bin/docker-registry" serve "$dir/registry.yml"
  wait_until 10 "the registry (see $dir/registry.log)" in_net curl -fsS "http://$gateway:$registry_port/v2/"
}

stop_everything() {
  local node
  for node in $(dock ps -aq 2>/dev/null); do dock rm -f -v "$node" >/dev/null || true; done
  for daemon in registry dockerd containerd; do stop_daemon "$dir" "$daemon"; done
  findmnt --raw --noheadings --output TARGET | sort -r | while read -r mount; do
    [[ $mount != "$(realpath "$dir")"/* ]] || umount -l "$mount"
  done
  ip netns del "$netns" 2>/dev/null || true
  wait_until 20 "the nodes' cgroups to be empty" remove_cgroups "$cgroup"
  remove_directory "$dir"
}

# --- the nodes' image

# A root directory with systemd, containerd and CNI plugins of a Debian suite; kept for later runs.
node_root() { # SUITE PACKAGE...
  local suite=$1 tar
  shift
  tar=$system-$suite.tar # mmdebstrap goes by the ending
  if [[ ! -s $tar ]]; then
    say "making a node of Debian $suite (half a minute)"
    mmdebstrap --quiet --variant=minbase --aptopt='APT::Install-Recommends "false"' \
      --include="$(IFS=,; echo "systemd,systemd-sysv,dbus,containerd,runc,containernetworking-plugins,iptables,iproute2,procps,ca-certificates,curl,mount${*:+,}$*")" \
      --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' "$suite" "$system-new.tar" >&2
    mv "$system-new.tar" "$tar"
  fi
  rm -rf "$dir/root"
  mkdir "$dir/root"
  tar -C "$dir/root" -xf "$tar" --exclude './dev/*'
}

# What a node needs to run inside of a container, and where its images come from.
make_node_image() { # NAME DRIVER SUITE PACKAGE...
  local name=$1 driver=$2 root=$dir/root unit restrict=false
  shift 2
  node_root "$@"
  lacks_sys_resource && restrict=true
  REGISTRY=http://$gateway:$registry_port RESTRICT=$restrict "$top/tests/system/provision.sh" "$driver" "$root"
  : >"$root/etc/machine-id"
  rm -f "$root/etc/hostname" "$root/etc/resolv.conf" "$root/var/lib/dbus/machine-id"
  for unit in systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-modules-load.service \
    sys-kernel-debug.mount sys-kernel-tracing.mount getty.target console-getty.service systemd-logind.service \
    systemd-timesyncd.service systemd-networkd.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_reap.service fstrim.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  # In a container systemd leaves mounts private, which it makes shared on every real host; credentials need it, too.
  tar -C "$root" -c . | dock import -c 'ENTRYPOINT ["/bin/sh", "-c", "mount --make-rshared / && exec /sbin/init"]' -c 'ENV container=docker' - "$name" >/dev/null
  rm -rf "$root"
}

# --- nodes

node_ip() { echo "10.97.0.1${1#n}"; }

start_node() { # NODE IMAGE
  dock run -d --name "$1" --hostname "$1" --runtime nodes --privileged --cgroupns private --network nodes --ip "$(node_ip "$1")" \
    --tmpfs /run --tmpfs /tmp -v /var/lib/containerd "$2" >/dev/null
  has_booted "$1"
}

has_booted() { # NODE
  wait_until 60 "$1 to boot" is_booted "$1"
}

is_booted() { # NODE: without failed units
  [[ $(on "$1" systemctl is-system-running) == running ]]
}

reboot_node() { # NODE
  dock restart "$1" >/dev/null
  has_booted "$1"
}

# A power cut.
cut_power() { # NODE
  dock kill "$1" >/dev/null
  dock start "$1" >/dev/null
  has_booted "$1"
}

# Its running containers, sandboxes included, each with its pid: a restart shows.
tasks() { # NODE
  on "$1" ctr --namespace k8s.io tasks ls -q | sort | while read -r id; do
    on "$1" ctr --namespace k8s.io tasks ls </dev/null | awk -v id="$id" '$1 == id && $3 == "RUNNING" { print $1, $2 }'
  done
}

main_pid() { # NODE UNIT
  on "$1" systemctl show --property MainPID --value "$2"
}

is_active() { # NODE UNIT
  [[ $(on "$1" systemctl is-active "$2" || true) == active ]]
}

put() { # NODE PATH MODE: the content from standard input
  on "$1" sh -c 'mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1"' sh "$2" "$3"
}

copy_to() { # NODE FILE PATH
  dock cp "$2" "$1:$3" >/dev/null
}
