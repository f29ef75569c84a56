#!/usr/bin/env bash
# What containers cannot show, in a virtual machine of today's make: cgroup v2 alone, containerd with its systemd cgroup driver, a
# kernel of its own that is started anew and has netem. Installs the .deb there, joins, runs examples/, makes the line bad, sets
# the clock, has a TPM seal the ledger and cuts the network. Root only. The machine is emulated, since KVM is not everywhere: it takes
# ten minutes, more on a busy host.
#
#   vm.sh               everything; DEB may name a package that is built already
#   KEEP=1 vm.sh        leaves the machine up; `vm.sh down` ends it
# shellcheck disable=SC2317,SC2329 # the tests are called by names made at run time
# shellcheck disable=SC2016 # what is in single quotes is for the shell in the machine
source "$(dirname "$0")/../env/lib.sh"
source "$env_dir/runtime.sh"
source "$top/tests/system/steps.sh"
source "$top/tests/system/nodes.sh"
cd "$top"
exec 2>&1

system=$target/vm
mac=52:54:00:12:34:56
# The last four are what systemd speaks to a TPM with.
packages=(udev kmod linux-image-cloud-amd64 initramfs-tools openssh-server libtss2-esys-3.0.2-0t64 libtss2-mu-4.0.1-0t64 libtss2-rc0t64
  libtss2-tcti-device0t64)

show_trouble() {
  in_vm journalctl --no-pager --lines 60 --unit 'garrison-*' --unit containerd || tail -n 40 "$dir/console.log"
}

# Runs CMD in the machine.
in_vm() { # CMD...
  timeout 300 ssh -q -F none -i "$dir/key" -p "$(<"$dir/ssh.port")" -o BatchMode=yes -o ConnectTimeout=15 \
    -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@127.0.0.1 "$(printf '%q ' "$@")"
}

kube() {
  kubectl --kubeconfig "$dir/admin.kubeconfig" --server "https://127.0.0.1:$(<"$dir/api.port")" --cache-dir "$dir/cache" "$@"
}

# --- the machine

make_disk() {
  local root=$dir/root
  node_root trixie "${packages[@]}"
  REGISTRY=http://127.0.0.1:5000 tests/system/provision.sh systemd "$root"
  mkdir -p "$root"/etc/{systemd/network,garrison} "$root/root/.ssh" "$root/opt/images"
  # The registry is in the machine, which has no way to any other.
  cp -r "$images/registry" "$images/bin/docker-registry" "$root/opt/images/"
  write_registry_config "$root/opt/images" 5000 /opt/images/registry true
  write_unit registry 'ExecStart=/opt/images/docker-registry serve /opt/images/registry.yml'
  # What runs, by the runtime's own word, on the console: it can be read without a network.
  write_unit witness \
    'ExecStart=/bin/sh -c "while sleep 2; do echo \"<2>witness: $(cat /proc/sys/kernel/random/boot_id): $(ctr -n k8s.io tasks ls | grep -c RUNNING) run\" >/dev/kmsg; done"'
  printf '[Match]\nMACAddress=%s\n[Network]\nDHCP=yes\n' "$mac" >"$root/etc/systemd/network/10-one.network"
  ln -sf ../systemd-networkd.service "$root/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
  ssh-keygen -q -t ed25519 -N '' -f "$dir/key"
  install -m 600 "$dir/key.pub" "$root/root/.ssh/authorized_keys"
  echo vm >"$root/etc/hostname"
  : >"$root/etc/machine-id"
  cp "$root"/boot/vmlinuz-* "$dir/vmlinuz"
  cp "$root"/boot/initrd.img-* "$dir/initrd"
  cp "$deb" "$root/root/garrison.deb"
  mke2fs -q -t ext4 -d "$root" "$dir/disk.img" 3G
  rm -rf "$root"
}

write_unit() { # NAME LINE...
  local name=$1 units=$dir/root/etc/systemd/system
  shift
  { printf '[Unit]\nAfter=containerd.service\n[Service]\n' && printf '%s\n' "$@"; } >"$units/$name.service"
  mkdir -p "$units/multi-user.target.wants"
  ln -sf "../$name.service" "$units/multi-user.target.wants/$name.service"
}

start_machine() {
  free_port 22022 >"$dir/ssh.port"
  free_port 26443 >"$dir/api.port"
  mkfifo "$dir/monitor.in" "$dir/monitor.out"
  mkdir "$dir/tpm"
  start_daemon "$dir" swtpm swtpm socket --tpm2 --tpmstate "dir=$dir/tpm" --ctrl "type=unixio,path=$dir/tpm.sock"
  # The machine's clock counts its instructions: on a busy host it is slow as a whole, and nothing in it runs out of time.
  start_daemon "$dir" qemu qemu-system-x86_64 -nodefaults -no-user-config -display none -M q35 -accel tcg,thread=single \
    -icount shift=1,sleep=on -cpu max -m 1024 -kernel "$dir/vmlinuz" -initrd "$dir/initrd" \
    -append "root=/dev/vda rw console=ttyS0 quiet mitigations=off tsc=reliable" \
    -drive "if=none,id=disk,file=$dir/disk.img,format=raw,cache=unsafe" -device virtio-blk-pci,drive=disk \
    -netdev "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:$(<"$dir/ssh.port")-:22,hostfwd=tcp:127.0.0.1:$(<"$dir/api.port")-:6443" \
    -device "virtio-net-pci,netdev=net,mac=$mac" -object rng-random,filename=/dev/urandom,id=random \
    -device virtio-rng-pci,rng=random -chardev "socket,id=tpm,path=$dir/tpm.sock" -tpmdev emulator,id=tpm,chardev=tpm \
    -device tpm-tis,tpmdev=tpm -serial "file:$dir/console.log" -chardev "pipe,id=monitor,path=$dir/monitor" \
    -mon chardev=monitor,mode=readline
  say "booting (a minute, more on a busy machine)"
  wait_until 1800 "the machine to boot (see $dir/console.log)" in_vm true
}

monitor() { # COMMAND
  timeout 10 sh -c 'echo "$1" >"$2"' sh "$1" "$dir/monitor.in"
}

boot_id() { in_vm cat /proc/sys/kernel/random/boot_id; }

stop_machine() {
  stop_daemon "$dir" qemu
  stop_daemon "$dir" swtpm
  remove_directory "$dir"
}

# --- tests

it_is_a_host_of_today() {
  equals cgroup2fs "$(in_vm stat -f -c %T /sys/fs/cgroup)" "cgroups"
  wait_until 600 "the registry in the machine" in_vm curl -fsS http://127.0.0.1:5000/v2/
}

it_joins_its_own_control() {
  local token
  in_vm dpkg -i /root/garrison.deb
  in_vm systemctl enable --now garrison-control
  in_vm cat /var/lib/garrison-control/admin.kubeconfig >"$dir/admin.kubeconfig"
  token=$(in_vm garrison token create)
  in_vm sh -c 'echo "$1" | garrison agent join --control localhost:6443 --token - --install-cni' sh "$token" | tee "$dir/joined"
  contains "$(<"$dir/joined")" "ok       cgroups      v2"
  contains "$(<"$dir/joined")" "garrison-agent.service runs, now and after every boot"
  wait_until 600 "the node" kube get node vm
  kube wait --for=condition=Ready node/vm --timeout=1200s
}

the_examples_run() {
  kube label node vm gpu=true
  kube apply -f examples
  kube rollout status --timeout=1800s daemonset/node-exporter
  kube rollout status --timeout=1800s daemonset/gpu-monitor
  kube rollout status --timeout=1800s --namespace kube-system daemonset/fluentd
  wait_until 600 "the node exporter" in_vm curl -fsS --max-time 20 http://127.0.0.1:9100/metrics
}

pods_are_limited_as_a_whole_by_slices() {
  local uid slice
  apply_limited limited 'cpu: 250m, memory: 32Mi' "trap 'exit 0' TERM; while :; do sleep 1; done"
  kube rollout status --timeout=1200s daemonset/limited
  uid=$(kube get pods -l app=limited -o 'jsonpath={.items[0].metadata.uid}')
  slice=kubepods.slice/kubepods-pod${uid//-/_}.slice
  equals "33554432 25000 100000" "$(in_vm sh -c 'cd "/sys/fs/cgroup/$1" && echo $(cat memory.max cpu.max)' sh "$slice")" "the pod's slice"
  # The container is below it, with limits of its own and a score as its class has it.
  equals "33554432" "$(in_vm sh -c 'cd "/sys/fs/cgroup/$1" && grep -hx 33554432 cri-*/memory.max' sh "$slice")" "the container's scope"
  kube delete daemonset limited
  wait_until 600 "the slice to be stopped" slice_is_gone "$slice"
}

slice_is_gone() { in_vm test ! -e "/sys/fs/cgroup/$1"; }

a_container_that_takes_too_much_memory_is_killed_and_said_so() {
  apply_limited greedy 'memory: 16Mi' 'tail /dev/zero'
  wait_until 1200 "the kernel to kill it" was_killed_for_memory
  kube delete daemonset greedy
  kube wait --for=delete pod -l app=greedy --timeout=1200s
}

was_killed_for_memory() {
  [[ $(kube get pods -l app=greedy -o 'jsonpath={.items[0].status.containerStatuses[0].lastState.terminated.reason}') == OOMKilled ]]
}

# Agent and control speak by the loopback here, and kubectl comes by the network: it is nobody else's packets that are late.
a_lossy_line_is_slow_and_a_cut_one_is_caught_up_with() {
  local told="trap 'exit 0' TERM; while :; do sleep 1; done"
  in_vm tc qdisc add dev lo root netem delay 150ms 50ms loss 5%
  in_vm systemctl restart garrison-agent
  wait_until 1200 "the node to be in session over a lossy line" in_session
  apply_limited far 'memory: 32Mi' "echo over a lossy line; $told"
  kube rollout status --timeout=1200s daemonset/far
  contains "$(kube logs --selector app=far)" "over a lossy line"

  in_vm tc qdisc change dev lo root netem loss 100%
  wait_until 1200 "the agent to notice that the line is cut" in_vm sh -c 'garrison status | grep "no session"'
  wait_until 1200 "control to notice that the line is cut" is_unknown
  apply_limited far 'memory: 32Mi' "echo after the cut; $told"
  in_vm tc qdisc del dev lo root
  wait_until 1200 "the node to be in session again" in_session
  kube wait --for=condition=Ready node/vm --timeout=1200s
  kube rollout status --timeout=1200s daemonset/far
  contains "$(kube logs --selector app=far)" "after the cut"
  kube delete daemonset far
  kube wait --for=delete pod -l app=far --timeout=1200s
}

is_unknown() { [[ $(kube get node vm -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == Unknown ]]; }

# It is control's clock, too. kubectl's is another one.
wherever_the_clock_is_set_no_daemon_stops() {
  local clock before
  before=$(containers)
  for clock in '+80 days' 1970-01-02 "@$(date +%s)"; do
    in_vm date --set "$clock"
    wait_until 600 "tokens that are good at $clock" tokens_are_good
    apply_limited timed 'memory: 32Mi' "echo at $clock; trap 'exit 0' TERM; while :; do sleep 1; done"
    kube rollout status --timeout=1200s daemonset/timed
    contains "$(kube logs --selector app=timed)" "at $clock"
    kube delete daemonset timed
    kube wait --for=delete pod -l app=timed --timeout=1200s
    equals "$before" "$(containers)" "containers at $clock"
    in_session || die "the node is not in session at $clock"
  done
  kube wait --for=condition=Ready node/vm --timeout=1200s
}

containers() { in_vm ctr -n k8s.io tasks ls -q | sort; }

# Of the second part of each that is in a pod, by the machine's clock.
tokens_are_good() {
  in_vm sh -c '
    for token in /var/lib/kubelet/pods/*/volumes/kubernetes.io~projected/*/token; do
      ends=$(cut -d. -f2 "$token" | tr _- /+ | base64 -d 2>/dev/null | grep -o "\"exp\":[0-9]*" | cut -d: -f2)
      [ "$ends" -gt "$(date +%s)" ] || exit 1
    done'
}

# The reboot after it needs that key before anything runs.
the_tpm_keeps_the_key_to_what_the_agent_keeps() {
  local before
  before=$(containers)
  is_in_clear || die "this is not how the node's key is kept"
  in_vm sh -euc 'mkdir -p -m 0700 /etc/credstore.encrypted
    head -c 32 /dev/urandom | systemd-creds encrypt --with-key=tpm2 --name=garrison.ledger - /etc/credstore.encrypted/garrison.ledger'
  in_vm systemctl restart garrison-agent
  wait_until 600 "the node to be in session" in_session
  ! is_in_clear || die "the node's key is still in clear"
  equals "$before" "$(containers)" "containers were restarted"
}

is_in_clear() { in_vm grep -raq "PRIVATE KEY" /var/lib/garrison; }

a_reboot_without_network_and_control_brings_every_daemon_back() {
  local before pods
  before=$(boot_id) pods=$(running_pods)
  in_vm systemctl disable --now garrison-control
  in_vm systemctl disable registry
  in_vm systemd-run --quiet --on-active=2s systemctl reboot
  monitor 'set_link net off'
  # Without a network, only the console tells.
  wait_until 1800 "three sandboxes and three containers after the reboot" witnessed_anew "$before" 6
  monitor 'set_link net on'
  wait_until 1200 "the machine to be in reach" in_vm true
  [[ $(boot_id) != "$before" ]] || die "it was not booted"
  in_vm systemctl enable --now garrison-control
  wait_until 1200 "the node to be in session" in_session
  kube wait --for=condition=Ready node/vm --timeout=1200s
  equals "$pods" "$(running_pods)" "they are other pods"
  wait_until 600 "the node exporter" in_vm curl -fsS --max-time 20 http://127.0.0.1:9100/metrics
}

running_pods() { kube get pods -A -o 'jsonpath={.items[*].metadata.name}'; }

witnessed_anew() { # BOOT-ID COUNT
  grep -a 'witness: ' "$dir/console.log" | grep -v "$1" | grep -q ": $2 run"
}

in_session() { in_vm garrison status | grep -q '^control .*, in session$'; }

# --- all

tests=(it_is_a_host_of_today it_joins_its_own_control the_examples_run pods_are_limited_as_a_whole_by_slices
  a_container_that_takes_too_much_memory_is_killed_and_said_so a_lossy_line_is_slow_and_a_cut_one_is_caught_up_with
  wherever_the_clock_is_set_no_daemon_stops the_tpm_keeps_the_key_to_what_the_agent_keeps
  a_reboot_without_network_and_control_brings_every_daemon_back)

((EUID == 0)) || die "this takes root: it makes a file system of Debian packages"
mkdir -p "$system"
dir=$(short_path "$system/machine")
if [[ ${1:-} == down ]]; then
  stop_machine
  exit 0
fi
mkdir -p "$system/machine"
[[ -n ${KEEP:-} ]] || trap stop_machine EXIT
"$env_dir/packages.sh" vm
"$env_dir/images.sh"
if [[ -z ${DEB:-} ]]; then
  rm -rf "$target/packages"
  packaging/build.sh
  DEB=$(echo "$target"/packages/*.deb)
fi
deb=$DEB
make_disk
start_machine
for test in "${tests[@]}"; do run "$test"; done
say "" "$passed passed, $failed failed"
((failed == 0))
