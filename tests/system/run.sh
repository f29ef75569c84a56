#!/usr/bin/env bash
# Installs the packages on nodes with systemd and tries what an operator does: joining, examples, kill, hang, upgrade, versions that
# differ, reboot without network, power cut, removal, purge. Root only; takes a few minutes beside the build of the packages.
#
#   run.sh               everything; DEB and RPM may name packages that are built already, PREVIOUS the .deb of an earlier version
#   KEEP=1 run.sh        leaves the nodes up; `run.sh down` removes them
#
# n1 is the control host with an agent of its own, n2 a second Debian 12; n3 is Debian 13 with the .rpm, for want of a free image of
# a distribution that uses it, and with containerd's systemd cgroup driver, where the others have cgroupfs.
# shellcheck disable=SC2317,SC2329 # the tests are called by names made at run time
# shellcheck disable=SC2016 # what is in single quotes is for the shell on a node
source "$(dirname "$0")/../env/lib.sh"
source "$env_dir/runtime.sh"
source "$top/tests/system/steps.sh"
source "$top/tests/system/nodes.sh"
cd "$top"
exec 2>&1

newer=9.9.9

show_trouble() {
  local node
  for node in n1 n2 n3; do
    say "--- the end of $node's journal"
    on "$node" journalctl --no-pager --lines 25 --unit 'garrison-*' </dev/null || true
  done
}

kube() { in_net kubectl --kubeconfig "$dir/admin.kubeconfig" --server "https://$(node_ip n1):6443" --cache-dir "$dir/cache" "$@"; }

# --- building

build_packages() {
  "$env_dir/packages.sh" system
  "$env_dir/images.sh"
  if [[ -z ${DEB:-} || -z ${RPM:-} ]]; then
    rm -rf "$target/packages"
    packaging/build.sh
    DEB=$(echo "$target"/packages/*.deb)
    RPM=$(echo "$target"/packages/*.rpm)
  fi
  mkdir -p "$dir/packages"
  cp "$DEB" "$RPM" "$dir/packages/"
  deb=$dir/packages/$(basename "$DEB") rpm=$dir/packages/$(basename "$RPM")
  # The same program under a newer version: an upgrade is what packages do, not what is in them.
  dpkg-deb -x "$DEB" "$dir/packages/unpacked"
  CARGO_TARGET_DIR=$target VERSION=$newer BINARY=$dir/packages/unpacked/usr/bin/garrison packaging/build.sh
  mv "$target"/packages/*"$newer"*.deb "$dir/packages/newer.deb"
  mv "$target"/packages/*"$newer"*.rpm "$dir/packages/newer.rpm"
}

start_nodes() {
  local node
  make_node_image bookworm cgroupfs bookworm
  make_node_image trixie systemd trixie rpm
  for node in n1 n2; do
    start_node "$node" bookworm
    copy_to "$node" "$deb" /root/garrison.deb
    copy_to "$node" "$dir/packages/newer.deb" /root/newer.deb
    copy_to "$node" "${PREVIOUS:-$deb}" /root/earlier.deb
  done
  start_node n3 trixie
  copy_to n3 "$rpm" /root/garrison.rpm
  copy_to n3 "$dir/packages/newer.rpm" /root/newer.rpm
}

# --- tests

the_packages_are_clean() {
  local said root=$dir/packages/unpacked unit
  said=$(lintian --allow-root --fail-on none --tag-display-limit 0 "$deb")
  equals "" "$said" "lintian has something to say"
  said=$(rpmlint --config packaging/rpm/rpmlint.toml "$rpm") || true
  contains "$said" "0 errors, 0 warnings"
  # garrison-images is a few words for the shell, which is not in the package.
  install -Dm 755 /dev/null "$root/bin/sh"
  for unit in agent control images; do
    # It exits with 0 on much of what it finds, so any word counts.
    said=$(systemd-analyze verify --man=no --recursive-errors=no --root "$root" "garrison-$unit.service" 2>&1) || true
    equals "" "$said" "systemd-analyze verify has something to say"
  done
  # The figures of docs/security.md, times ten.
  for unit in agent:53 control:13 images:13; do
    systemd-analyze security --offline=true --threshold="${unit#*:}" "systemd/garrison-${unit%:*}.service" >/dev/null ||
      die "garrison-${unit%:*}.service is rated worse than docs/security.md says"
  done
}

packages_are_the_same_bytes_when_built_again() {
  local again=$dir/again
  mkdir -p "$again"
  CARGO_TARGET_DIR=$target BINARY=$dir/packages/unpacked/usr/bin/garrison packaging/build.sh
  cmp "$deb" "$target"/packages/garrison_*.deb
  cmp "$rpm" "$target"/packages/garrison-*.rpm
}

installing_enables_and_starts_nothing() {
  local node unit
  for node in n1 n2; do on "$node" dpkg -i /root/garrison.deb; done
  on n3 rpm -i --nodeps /root/garrison.rpm
  for node in n1 n2 n3; do
    for unit in agent control images; do
      equals disabled "$(on "$node" systemctl is-enabled "garrison-$unit" || true)" "garrison-$unit is enabled on $node"
      ! is_active "$node" "garrison-$unit" || die "garrison-$unit runs on $node"
    done
    on "$node" test ! -e /var/lib/garrison
    on "$node" getent passwd garrison
  done
}

check_says_what_is_missing() {
  local said
  said=$(on n2 garrison check) && die "it was to fail"
  contains "$said" "PROBLEM  settings     neither a control endpoint nor a folder of manifests is set"
  contains "$said" "there is no CNI configuration in /etc/cni/net.d"
  contains "$said" "ok       runtime      containerd 1.6"
}

a_fleet_forms() {
  local node token
  put n1 /etc/garrison/control.d/50-test.yaml 644 <<<"names: [$(node_ip n1)]"
  on n1 systemctl enable --now garrison-control
  on n1 cat /var/lib/garrison-control/admin.kubeconfig >"$dir/admin.kubeconfig"
  equals garrison "$(on n1 stat -c %U /var/lib/garrison-control/store)" "the store's owner"
  for node in n1 n2 n3; do settle "$node"; done
  # As provisioning tools do it: files first, then the service.
  token=$(on n1 cat /var/lib/garrison-control/join.token)
  put n1 /etc/garrison/agent.d/50-fleet.yaml 644 <<<"{control: '$(node_ip n1):6443', installCni: true}"
  put n1 /etc/credstore/garrison.token 600 <<<"$token"
  on n1 garrison check
  on n1 systemctl enable --now garrison-agent
  wait_until 60 "the first node" nodes_are 1
  # As people do it.
  a_refusal_leaves_the_host_as_it_was
  for node in n2 n3; do join "$node" "$(join_command --ttl 1h) --install-cni"; done
  wait_until 60 "three nodes" nodes_are 3
  kube wait --for=condition=Ready node --all --timeout=120s
  equals "n1 n2" "$(kube get nodes -l example.com/suite=bookworm -o 'jsonpath={.items[*].metadata.name}')" "labels.d"
}

# What a node of these tests has beside what joining says.
settle() { # NODE
  # The disk is that of the machine, which may be fuller than a node's should be.
  put "$1" /etc/garrison/agent.d/70-disk.yaml 644 <<<"evictionHard: {memory.available: 100Mi}"
  put "$1" /etc/garrison/labels.d/hardware 644 <<<"example.com/suite=$(on "$1" sh -c '. /etc/os-release; echo $VERSION_CODENAME')"
}

# The command that makes a host a node, as control says it.
join_command() { # FLAG...
  on n1 garrison token create "$@" 2>&1 | sed -n 's/^    //p'
}

join() { # NODE COMMAND
  contains "$(on "$1" sh -c "$2")" "garrison-agent.service runs, now and after every boot"
  is_active "$1" garrison-agent
  equals enabled "$(on "$1" systemctl is-enabled garrison-agent)" "garrison-agent on $1"
  on "$1" test ! -e /etc/credstore/garrison.token
}

# On n2, which nothing was done to yet.
a_refusal_leaves_the_host_as_it_was() {
  local command gone
  command="$(join_command --ttl 1h) --install-cni"
  gone=$(join_command --ttl 1h)
  on n1 garrison token revoke "$(cut -d' ' -f2 <<<"${gone%%.*}")"
  refused "${command% *}" "there is no CNI configuration in /etc/cni/net.d"
  refused "$command --node-name n1" "node n1 exists already"
  refused "${command/:6443/:1}" "cannot reach control at $(node_ip n1):1"
  refused "$gone --install-cni" "the join token is not known"
  refused "garrison agent join --control $(node_ip n1):6443 --install-cni" "this host is not enrolled, and has no join token"
  on n1 garrison token create --ttl 1s --labels old=yes >"$dir/token" 2>/dev/null
  wait_until 10 "a token to expire" token_has_expired
  refused "echo $(cat "$dir/token") | ${command#* | }" "the join token has expired"
  put n2 /etc/garrison/agent.d/60-typo.yaml 644 <<<"contrl: somewhere"
  refused "$command" "/etc/garrison/agent.d/60-typo.yaml"
  on n2 rm /etc/garrison/agent.d/60-typo.yaml
  on n2 systemctl stop containerd
  refused "$command" "install and start containerd"
  on n2 systemctl start containerd
  on n2 cp /bin/sleep /usr/local/bin/kubelet
  on n2 systemd-run --quiet --unit kubelet /usr/local/bin/kubelet 1000
  refused "$command" "would fight over pods' folders"
  on n2 systemctl stop kubelet
  on n2 rm /usr/local/bin/kubelet
}

token_has_expired() { on n1 garrison token list | grep -q 'old=yes (expired)'; }

refused() { # COMMAND WHY
  local said
  said=$(on n2 sh -c "$1" 2>&1) && die "it was to fail: $1"
  contains "$said" "$2"
  on n2 sh -c 'for left in /var/lib/garrison /etc/garrison/agent.d/50-join.yaml; do test ! -e "$left" || { echo "$left is left"; exit 1; }; done'
  equals disabled "$(on n2 systemctl is-enabled garrison-agent || true)" "garrison-agent on n2"
}

nodes_are() { [[ $(kube get nodes -o name | wc -l) == "$1" ]]; }

the_token_is_needed_once() {
  local node
  on n1 rm /etc/credstore/garrison.token
  for node in n1 n2 n3; do on "$node" systemctl restart garrison-agent; done
  for node in n1 n2 n3; do wait_until 60 "$node to be in session" in_session "$node"; done
}

joining_again_changes_nothing() {
  local pid said
  pid=$(main_pid n2 garrison-agent)
  contains "$(on n2 garrison agent join)" "this host is node n2 of the fleet at $(node_ip n1):6443"
  equals "$pid" "$(main_pid n2 garrison-agent)" "the agent was restarted"
  said=$(on n2 garrison agent join --control elsewhere:6443 2>&1) && die "it was to fail"
  contains "$said" "this host is node n2 of the fleet at $(node_ip n1):6443 already"
  said=$(on n2 garrison agent join --node-name other 2>&1) && die "it was to fail"
  contains "$said" "is of node n2, and nodeName is other"
  equals "$(printf '%s\n' '# Written by garrison agent join.' "control: \"$(node_ip n1):6443\"" 'installCni: true')" \
    "$(on n2 cat /etc/garrison/agent.d/50-join.yaml)" "the settings"
}

in_session() { on "$1" garrison status | grep -q '^control .*, in session$'; }

the_examples_run() {
  local node
  kube apply -f "$top/examples"
  kube rollout status --timeout=180s daemonset/node-exporter
  kube rollout status --timeout=180s --namespace kube-system daemonset/fluentd
  kube label node n2 gpu=true
  kube rollout status --timeout=180s daemonset/gpu-monitor
  for node in n1 n2 n3; do metrics_of "$node"; done
  equals 3 "$(kube get pods -l app=node-exporter --field-selector status.phase=Running -o name | wc -l)" "exporters"
}

metrics_of() { # NODE
  wait_until 60 "the node exporter of $1" on "$1" curl -fsS --max-time 5 http://127.0.0.1:9100/metrics
}

status_and_explain_tell_it_at_the_host() {
  local said
  said=$(on n2 garrison status)
  contains "$said" "node        n2, ready"
  contains "$said" "hold        none"
  contains "$said" "default/gpu-monitor-"
  on n2 garrison status --output json | jq -e '.inSession and (.pods | length == 3)'
  contains "$(on n1 garrison explain)" "daemonset default/gpu-monitor does not run here"
}

the_journal_has_each_field_by_itself() {
  local pod
  pod=$(kube get pods -l app=gpu-monitor -o 'jsonpath={.items[0].metadata.name}')
  contains "$(on n2 journalctl --no-pager --output cat --unit garrison-agent "GARRISON_POD=default/$pod")" "pod taken on"
  # Through control's sandbox, too.
  contains "$(on n1 journalctl --no-pager --output cat --unit garrison-control _TRANSPORT=journal)" " INFO "
}

the_sandbox_is_as_stated() {
  local agent control
  agent=$(main_pid n2 garrison-agent) control=$(main_pid n1 garrison-control)
  # What the agent mounts is to be seen by containerd.
  equals "$(on n2 readlink /proc/1/ns/mnt)" "$(on n2 readlink "/proc/$agent/ns/mnt")" "the agent has mounts of its own"
  contains "$(on n2 cat "/proc/$agent/status")" "NoNewPrivs:	1"
  contains "$(on n2 cat "/proc/$agent/status")" "Seccomp:	2"
  contains "$(on n1 cat "/proc/$control/status")" "CapBnd:	0000000000000000"
  equals garrison "$(on n1 stat -c %U "/proc/$control")" "control's account"
  equals "700 root" "$(on n2 stat -c '%a %U' /var/lib/garrison)" "the state directory"
}

# A tmpfs for a pod is mounted by the agent and used by containerd; the ConfigMap-free way to see that mounts get through.
memory_volumes_reach_pods() {
  kube apply -f - <<'YAML'
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: memory, namespace: default}
spec:
  selector: {matchLabels: {app: memory}}
  template:
    metadata: {labels: {app: memory}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: busybox:1.35
        command: [sh, -c, "grep ' /scratch tmpfs ' /proc/mounts && echo mounted; trap 'exit 0' TERM; while :; do sleep 1; done"]
        volumeMounts: [{name: scratch, mountPath: /scratch}]
      volumes:
      - {name: scratch, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
YAML
  kube rollout status --timeout=120s daemonset/memory
  wait_until 30 "the pod to tell of its mount" logs_say mounted
}

logs_say() { kube logs --selector app=memory --tail 5 | grep -q "$1"; }

# Cgroups of pods are made by the agent on n2, by its systemd on n3.
pods_are_limited_as_a_whole() {
  local uid
  apply_limited limited 'cpu: 250m, memory: 32Mi' "trap 'exit 0' TERM; while :; do sleep 1; done"
  kube rollout status --timeout=120s daemonset/limited
  uid=$(uid_of_limited_on n2)
  equals 33554432 "$(memory_limit n2 "kubepods/pod$uid")" "the pod's cgroup on n2"
  uid=$(uid_of_limited_on n3)
  equals 33554432 "$(memory_limit n3 "kubepods.slice/kubepods-pod${uid//-/_}.slice")" "the pod's slice on n3"
  equals "CPUQuotaPerSecUSec=250ms" "$(on n3 systemctl show -p CPUQuotaPerSecUSec "kubepods-pod${uid//-/_}.slice")" "the slice's quota"
  kube delete daemonset limited
  kube wait --for=delete pod -l app=limited --timeout=60s
  wait_until 60 "the slice to be stopped" is_stopped n3 "kubepods-pod${uid//-/_}.slice"
}

uid_of_limited_on() { # NODE
  kube get pods -l app=limited --field-selector "spec.nodeName=$1" -o 'jsonpath={.items[0].metadata.uid}'
}

memory_limit() { # NODE CGROUP
  on "$1" sh -c 'cat "/sys/fs/cgroup/memory/$1/memory.limit_in_bytes" 2>/dev/null || cat "/sys/fs/cgroup/$1/memory.max"' sh "$2"
}

is_stopped() { # NODE UNIT
  [[ -z $(on "$1" systemctl list-units --all --no-legend "$2") ]]
}

a_killed_agent_is_back_and_no_container_was_restarted() {
  local before pid
  before=$(tasks n2) pid=$(main_pid n2 garrison-agent)
  on n2 kill -KILL "$pid"
  wait_until 30 "another agent" another_agent n2 "$pid"
  wait_until 60 "n2 to be in session" in_session n2
  equals "$before" "$(tasks n2)" "containers were restarted"
}

another_agent() { # NODE PID
  is_active "$1" garrison-agent && [[ $(main_pid "$1" garrison-agent) != "$2" ]]
}

a_hung_agent_is_replaced_by_the_watchdog() {
  local before pid
  before=$(tasks n2)
  printf '[Service]\nWatchdogSec=4s\n' | put n2 /run/systemd/system/garrison-agent.service.d/test.conf 644
  on n2 systemctl daemon-reload
  on n2 systemctl restart garrison-agent
  pid=$(main_pid n2 garrison-agent)
  # Left alone it gives its signs.
  on n2 sleep 9
  equals "$pid" "$(main_pid n2 garrison-agent)" "an agent that is well was replaced"
  on n2 kill -STOP "$pid"
  wait_until 40 "another agent" another_agent n2 "$pid"
  contains "$(on n2 journalctl --no-pager -u garrison-agent)" "Watchdog timeout"
  wait_until 60 "n2 to be in session" in_session n2
  equals "$before" "$(tasks n2)" "containers were restarted"
  on n2 rm -r /run/systemd/system/garrison-agent.service.d
  on n2 systemctl daemon-reload
  on n2 systemctl restart garrison-agent
}

a_second_agent_is_refused() {
  local said
  said=$(on n2 garrison agent --config /etc/garrison/agent.yaml 2>&1) && die "it was to fail"
  contains "$said" "another agent uses /var/lib/garrison"
}

containerd_may_restart_under_it() {
  local before pid
  before=$(tasks n2) pid=$(main_pid n2 garrison-agent)
  on n2 systemctl restart containerd
  wait_until 60 "n2 to be ready" is_ready n2
  equals "$before" "$(tasks n2)" "containers were restarted"
  equals "$pid" "$(main_pid n2 garrison-agent)" "the agent was restarted"
}

is_ready() { on "$1" garrison status | grep -q "^node .*, ready$"; }

an_upgrade_restarts_the_services_and_no_container() {
  local node agent control
  local -A before
  for node in n1 n2 n3; do before[$node]=$(tasks "$node"); done
  agent=$(main_pid n2 garrison-agent) control=$(main_pid n1 garrison-control)
  for node in n1 n2; do on "$node" dpkg -i /root/newer.deb; done
  on n3 rpm -U --nodeps /root/newer.rpm
  contains "$(on n2 dpkg-query -W garrison)" "$newer"
  another_agent n2 "$agent" || die "the agent was not restarted"
  [[ $(main_pid n1 garrison-control) != "$control" ]] || die "control was not restarted"
  ! is_active n2 garrison-control || die "an upgrade started what did not run"
  for node in n1 n2 n3; do
    wait_until 60 "$node to be in session" in_session "$node"
    equals "${before[$node]}" "$(tasks "$node")" "containers of $node were restarted"
  done
  contains "$(on n2 cat /etc/garrison/agent.d/50-join.yaml)" "control: \"$(node_ip n1):6443\""
}

# The version of the packages is the earlier one, or the one that was saved as PREVIOUS: first its agent with the newer control, then
# its control, and an agent beside it, with the newer agent.
an_earlier_version_works_with_a_newer_one_in_both_roles() {
  local earlier node before
  for earlier in n2 n1; do
    before=$(for node in n1 n2 n3; do tasks "$node"; done)
    on "$earlier" dpkg -i /root/earlier.deb
    [[ $(on "$earlier" dpkg-query -W garrison) != *"$newer"* ]] || die "$earlier still has the newer version"
    for node in n1 n2 n3; do wait_until 120 "$node to be in session" in_session "$node"; done
    equals "$before" "$(for node in n1 n2 n3; do tasks "$node"; done)" "containers were restarted"
    apply_limited skewed 'memory: 32Mi' "echo earlier on $earlier; trap 'exit 0' TERM; while :; do sleep 1; done"
    kube rollout status --timeout=120s daemonset/skewed
    equals 3 "$(kube logs --selector app=skewed | grep -c "earlier on $earlier")" "logs through agents"
    kube delete daemonset skewed
    kube wait --for=delete pod -l app=skewed --timeout=60s
    on "$earlier" dpkg -i /root/newer.deb
    for node in n1 n2 n3; do wait_until 120 "$node to be in session" in_session "$node"; done
    equals "$before" "$(for node in n1 n2 n3; do tasks "$node"; done)" "containers were restarted"
  done
}

a_version_that_cannot_read_the_ledger_is_not_installed() {
  local node before said package
  for node in n2 n3; do
    before=$(tasks "$node")
    on "$node" systemctl stop garrison-agent
    ask_for_a_reader_of_format "$node" 3
    package=$([[ $node == n2 ]] && echo 'dpkg -i /root/garrison.deb' || echo 'rpm -U --nodeps --oldpackage /root/garrison.rpm')
    said=$(on "$node" sh -c "$package" 2>&1) && die "it was to fail"
    contains "$said" "was written by a newer version, and this one cannot read it (format 3;"
    contains "$(on "$node" sh -c 'dpkg-query -W garrison || rpm -q garrison')" "$newer"
    # An agent that comes upon it all the same leaves it as it is.
    said=$(on "$node" garrison agent --config /etc/garrison/agent.yaml 2>&1) && die "it was to fail"
    contains "$said" "install that version again"
    ask_for_a_reader_of_format "$node" 1
    on "$node" systemctl start garrison-agent
    wait_until 60 "$node to be in session" in_session "$node"
    equals "$before" "$(tasks "$node")" "containers were restarted"
  done
}

# Makes a node's ledger one that a version to come has written: its header, and the checksum over that and what is behind it.
ask_for_a_reader_of_format() { # NODE FORMAT
  on "$1" bash -euc 'for slot in /var/lib/garrison/ledger/manifest.*; do
    [ "$(head -c 8 "$slot" | tr -d "\000")" = GARRLDGR ] || continue
    printf "\\x$1" | dd of="$slot" bs=1 seek=12 conv=notrunc status=none
    length=$(od -An --endian=little -tu8 -j24 -N8 "$slot" | tr -d " ")
    sum=$({ head -c 32 "$slot"; tail -c +65 "$slot" | head -c "$length"; } | sha256sum | cut -c-64 | sed "s/../\\\\x&/g")
    printf "$sum" | dd of="$slot" bs=1 seek=32 conv=notrunc status=none
  done' bash "$2"
}

# On n2; what comes after it on that node, its purge included, is with a sealed ledger.
a_key_seals_what_the_agent_keeps() {
  local before said key=/etc/credstore.encrypted/garrison.ledger
  kube create secret generic sealed --from-literal=password=in-clear
  kube apply -f - <<'YAML'
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: sealed, namespace: default}
spec:
  selector: {matchLabels: {app: sealed}}
  template:
    metadata: {labels: {app: sealed}}
    spec:
      terminationGracePeriodSeconds: 1
      nodeSelector: {gpu: "true"}
      containers:
      - name: main
        image: busybox:1.35
        command: [sh, -c, "[ $(cat /secret/password) = in-clear ] || exit 1; trap 'exit 0' TERM; while :; do sleep 1; done"]
        volumeMounts: [{name: secret, mountPath: /secret}]
      volumes:
      - {name: secret, secret: {secretName: sealed}}
YAML
  kube rollout status --timeout=120s daemonset/sealed
  before=$(tasks n2)
  keeps_in_clear n2 "$(base64 <<<in-clear | cut -c-10)" || die "this is not how the ledger holds a Secret"
  keeps_in_clear n2 "PRIVATE KEY" || die "this is not how the node's key is kept"
  on n2 sh -euc 'mkdir -p -m 0700 "${1%/*}"; head -c 32 /dev/urandom | systemd-creds encrypt --name=garrison.ledger - "$1"' sh "$key"
  on n2 systemctl restart garrison-agent
  wait_until 60 "n2 to be in session" in_session n2
  is_sealed n2
  equals "$before" "$(tasks n2)" "containers were restarted"

  dock network disconnect nodes n2
  reboot_node n2
  wait_until 60 "the pods of n2" pods_run_on n2 5
  dock network connect --ip "$(node_ip n2)" nodes n2
  wait_until 120 "n2 to be in session" in_session n2
  is_sealed n2

  before=$(tasks n2)
  on n2 systemctl stop garrison-agent
  contains "$(on n2 garrison status)" "default/sealed-"
  on n2 mv "$key" /root/key
  on n2 systemctl start garrison-agent && die "it was to fail"
  contains "$(on n2 journalctl --no-pager --boot --unit garrison-agent)" "is sealed, and there is no key; put this host's $key back"
  said=$(on n2 garrison status 2>&1) && die "it was to fail"
  contains "$said" "is sealed, and there is no key"
  # Neither is another one, or what is none.
  on n2 sh -euc 'for bytes in 32 31; do head -c $bytes /dev/urandom | systemd-creds encrypt --name=garrison.ledger - "$1"; garrison status || true; done' \
    sh "$key" >"$dir/said" 2>&1
  contains "$(cat "$dir/said")" "is sealed, and not with the key there is"
  contains "$(cat "$dir/said")" "the credential garrison.ledger has 31 bytes"
  equals "$before" "$(tasks n2)" "containers were touched"
  on n2 mv /root/key "$key"
  on n2 systemctl restart garrison-agent
  wait_until 60 "n2 to be in session" in_session n2
  equals "$before" "$(tasks n2)" "containers were restarted"
  kube delete daemonset/sealed secret/sealed
  kube wait --for=delete pod -l app=sealed --timeout=60s
}

keeps_in_clear() { on "$1" grep -raq -e "$2" /var/lib/garrison; } # NODE WHAT

is_sealed() { # NODE
  local said
  for said in "$(base64 <<<in-clear | cut -c-10)" "PRIVATE KEY" daemonset DaemonSet busybox; do
    ! keeps_in_clear "$1" "$said" || die "$1 keeps $said in clear"
  done
}

a_reboot_without_network_brings_every_daemon_back() {
  local before set
  # What is to be pulled at every start, as an image with the tag latest by default, cannot be started offline.
  for set in node-exporter gpu-monitor; do
    kube patch daemonset "$set" --patch \
      '{"spec": {"template": {"spec": {"containers": [{"name": "'"$set"'", "imagePullPolicy": "IfNotPresent"}]}}}}'
    kube rollout status --timeout=180s "daemonset/$set"
  done
  before=$(on n2 garrison status --output json | jq -r '.pods[].name' | sort)
  dock network disconnect nodes n2
  reboot_node n2
  wait_until 60 "the pods of n2" pods_run_on n2 4
  on n2 curl -fsS --max-time 5 http://127.0.0.1:9100/metrics >/dev/null
  equals "$before" "$(on n2 garrison status --output json | jq -r '.pods[].name' | sort)" "they are other pods"
  contains "$(on n2 garrison status)" "no session"
  dock network connect --ip "$(node_ip n2)" nodes n2
  wait_until 120 "n2 to be in session" in_session n2
  kube wait --for=condition=Ready node/n2 --timeout=120s
}

pods_run_on() { # NODE COUNT
  [[ $(on "$1" garrison status --output json | jq '[.pods[] | select(.seen.status == "Running" and .seen.ready == .seen.containers)] | length') == "$2" ]]
}

a_power_cut_brings_every_daemon_back() {
  cut_power n3
  wait_until 90 "the pods of n3" pods_run_on n3 3
  metrics_of n3
  wait_until 120 "n3 to be in session" in_session n3
}

control_may_be_away() {
  local before
  before=$(tasks n2)
  on n1 systemctl stop garrison-control
  on n2 systemctl restart garrison-agent
  wait_until 30 "the agent" is_active n2 garrison-agent
  equals "$before" "$(tasks n2)" "containers were restarted"
  on n1 systemctl start garrison-control
  wait_until 120 "n2 to be in session" in_session n2
}

image_archives_are_loaded_at_boot() {
  local image=docker.io/library/fluentd:v1.16
  on n2 mkdir -p /var/lib/garrison/images
  on n2 ctr --namespace k8s.io images export /var/lib/garrison/images/fluentd.tar "$image"
  on n2 ctr --namespace k8s.io images rm "$image"
  on n2 systemctl enable garrison-images
  reboot_node n2
  contains "$(on n2 ctr --namespace k8s.io images ls -q)" "$image"
  wait_until 60 "the pods of n2" pods_run_on n2 4
}

removal_leaves_pods_and_purge_ends_them() {
  local before
  before=$(tasks n2)
  on n2 dpkg -r garrison
  equals "$before" "$(tasks n2)" "removing the package touched containers"
  on n2 test ! -e /usr/bin/garrison
  on n2 test -e /etc/garrison/agent.d/50-join.yaml
  on n2 dpkg -P garrison
  equals "" "$(tasks n2)" "pods outlived the purge"
  on n2 sh -c 'for left in /etc/garrison /var/lib/garrison /var/lib/kubelet/pods/* /var/log/pods/* /etc/cni/net.d/99-garrison.conflist; do test ! -e "$left" || { echo "$left is left"; exit 1; }; done'
  equals running "$(on n2 systemctl is-system-running)" "n2"
}

a_reinstalled_host_gets_its_node_back() {
  local uid said
  uid=$(kube get node n2 -o 'jsonpath={.metadata.uid}')
  on n2 dpkg -i /root/garrison.deb
  # What systemd encrypted for the host of before, it decrypts no more.
  on n2 sh -c 'tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id; rm /etc/credstore.encrypted/garrison.ledger'
  settle n2
  said=$(on n2 sh -c "$(join_command --ttl 1h) --install-cni" 2>&1) && die "it was to fail"
  contains "$said" "garrison token create --node-name n2 --uses 1"
  join n2 "$(join_command --node-name n2 --uses 1) --install-cni"
  wait_until 60 "the pods of n2" pods_run_on n2 4
  equals "$uid true" "$(kube get node n2 -o 'jsonpath={.metadata.uid} {.metadata.labels.gpu}')" "the Node"
  equals 4 "$(kube get pods -A --field-selector spec.nodeName=n2 -o name | wc -l)" "pods of n2 in the API"
  on n2 dpkg -P garrison
}

purged_and_installed_again_it_works_alone() {
  on n2 dpkg -i /root/garrison.deb
  put n2 /etc/garrison/agent.d/50-alone.yaml 644 \
    <<<"{manifests: /etc/garrison/manifests, installCni: true, evictionHard: {memory.available: 100Mi}}"
  put n2 /etc/garrison/labels.d/hardware 644 <<<"gpu=true"
  put n2 /etc/garrison/manifests/gpu.yaml 644 <"$top/examples/gpu-monitor.yaml"
  on n2 systemctl enable --now garrison-agent
  wait_until 60 "the pod" pods_run_on n2 1
  contains "$(on n2 garrison status)" "none: this host works alone"
}

with_rpm_a_purge_is_a_command() {
  local said
  said=$(on n3 garrison purge 2>&1) && die "it was to ask"
  contains "$said" "another agent uses"
  on n3 systemctl stop garrison-agent
  said=$(on n3 garrison purge 2>&1) && die "it was to ask"
  contains "$said" "say --yes to do it"
  on n3 garrison purge --yes
  equals "" "$(tasks n3)" "pods outlived the purge"
  on n3 rpm -e garrison
  on n3 test ! -e /usr/bin/garrison
  ! is_active n3 garrison-agent || die "the service outlived its package"
}

# --- all

tests=(the_packages_are_clean packages_are_the_same_bytes_when_built_again installing_enables_and_starts_nothing
  check_says_what_is_missing a_fleet_forms the_token_is_needed_once joining_again_changes_nothing the_examples_run
  status_and_explain_tell_it_at_the_host the_journal_has_each_field_by_itself the_sandbox_is_as_stated
  memory_volumes_reach_pods pods_are_limited_as_a_whole
  a_killed_agent_is_back_and_no_container_was_restarted a_hung_agent_is_replaced_by_the_watchdog a_second_agent_is_refused
  containerd_may_restart_under_it an_upgrade_restarts_the_services_and_no_container
  an_earlier_version_works_with_a_newer_one_in_both_roles a_version_that_cannot_read_the_ledger_is_not_installed
  a_key_seals_what_the_agent_keeps a_reboot_without_network_brings_every_daemon_back a_power_cut_brings_every_daemon_back control_may_be_away
  image_archives_are_loaded_at_boot removal_leaves_pods_and_purge_ends_them a_reinstalled_host_gets_its_node_back
  purged_and_installed_again_it_works_alone with_rpm_a_purge_is_a_command)

((EUID == 0)) || die "this takes root: it makes namespaces, mounts and cgroups"
dir=$(short_path "$system")
if [[ ${1:-} == down ]]; then
  stop_everything
  exit 0
fi
mkdir -p "$system"
[[ -n ${KEEP:-} ]] || trap stop_everything EXIT
build_packages
start_docker
start_image_registry
start_nodes
for test in "${tests[@]}"; do run "$test"; done
say "" "$passed passed, $failed failed"
((failed == 0))
