#!/usr/bin/env bash
# What garrison costs while nothing happens: memory and processor of the binary that is packaged with no pod, with the three
# DaemonSets of examples/, with thirty, and with thirty that are asked over HTTP every ten seconds how they are. Every row is a node
# of its own (tests/env/node.sh) and a garrison started for it. Prints Markdown to stdout, progress to stderr; asserts nothing.
#
#   idle.sh [SECONDS [ROLE...]]    how long each row is watched (60), and which roles (agent up): `agent` is the agent alone
#                                  on a folder of manifests, `up` has the control endpoint in the same process
source "$(dirname "$0")/../env/lib.sh"

bench=$target/bench
garrison=$target/dist/garrison
name="garrison-bench" # of the node
many=30

# --- the node, and garrison in it

start_node() {
  mkdir -p "$bench"
  dir=$(mktemp -d "$bench/idle.XXXXXX")
  # The keeper holds the node until its standard input ends, so the node goes however this script ends.
  coproc keeper { exec "$env_dir/node.sh" run "$name" "$dir"; }
  # shellcheck disable=SC2154 # keeper_PID is coproc's
  hold=${keeper[1]} keeper_pid=$keeper_PID
  trap stop_node EXIT
  read -r socket <&"${keeper[0]}" || die "the node did not come up (see above)"
  # The node may have given a long path a short name; paths of this script have to fit.
  dir=$(dirname "$socket")
}

stop_node() {
  local ended=$?
  [[ $ended == 0 || ! -s $dir/garrison.log ]] || { say "--- the end of garrison's log"; tail -n 15 "$dir/garrison.log" >&2; }
  exec {hold}>&-
  wait "$keeper_pid" || say "the node did not go down cleanly: look into $dir"
  [[ -z ${starter:-} ]] || wait "$starter" || true
  exit "$ended"
}

in_node() { "$env_dir/node.sh" exec "$name" "$dir" "$@"; }

kube() { in_node kubectl --kubeconfig "$dir/state/admin.kubeconfig" --cache-dir "$dir/kubectl-cache" "$@"; }

start_garrison() { # ROLE
  local role=(up)
  mkdir "$dir/manifests"
  [[ $1 == up ]] || role=("$1" --manifests "$dir/manifests")
  # With the label all three examples run here.
  in_node "$garrison" "${role[@]}" --state-dir "$dir/state" --node-name "$name" --node-labels gpu=true \
    --image-gc-high-threshold 100 --eviction-hard 'memory.available<100Mi,nodefs.available<1%,imagefs.available<1%' </dev/null >"$dir/garrison.log" 2>&1 &
  starter=$!
  wait_until 10 "garrison to run" find_garrison
  if [[ $1 == up ]]; then
    wait_until 60 "the node to be ready" node_is_ready
  else
    wait_until 60 "the ledger" test -e "$dir/state/ledger"
  fi
}

# What was started is a shell, then nsenter, then garrison.
find_garrison() {
  pid=$starter
  until [[ $(readlink "/proc/$pid/exe") == "$garrison" ]]; do
    pid=$(cut -d' ' -f1 "/proc/$pid/task/$pid/children")
    [[ $pid ]] || return 1
  done
}

node_is_ready() { [[ $(kube get nodes --no-headers) == *" Ready "* ]]; }

manifests() { # PODS [probed]: prints one DaemonSet for each
  local index
  if (($1 == 3)); then
    awk 'FNR == 1 {print "---"} {print}' "$top"/examples/*.yaml
  else
    for ((index = 1; index <= $1; index++)); do "${2:+probed_}sleeper" "$index"; done
  fi
}

sleeper() { # INDEX
  cat <<YAML
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: sleeper-$1, namespace: default}
spec:
  selector: {matchLabels: {app: sleeper-$1}}
  template:
    metadata: {labels: {app: sleeper-$1}}
    spec:
      containers: [{name: main, image: "busybox:1.35", command: [sleep, "2147483647"]}]
YAML
}

# A server is what there is to ask.
probed_sleeper() { # INDEX
  local server='echo well >/tmp/index.html; exec httpd -f -p 8080 -h /tmp'
  sleeper "$1" | sed "s|command: .*|command: [sh, -c, '$server'], readinessProbe: {httpGet: {port: 8080}}}]|"
}

run_pods() { # ROLE PODS [probed]
  (($2)) || return 0
  manifests "$2" "${3:-}" >"$dir/pods.yaml"
  if [[ $1 == up ]]; then kube apply -f "$dir/pods.yaml" >&2; else mv "$dir/pods.yaml" "$dir/manifests"; fi
  wait_until 300 "$2 pods to run" pods_run "$2"
}

# Each pod is two tasks for containerd, the sandbox and the container.
pods_run() { # PODS
  [[ $(ctr --address "$socket" --namespace k8s.io tasks ls | grep -c RUNNING) == $((2 * $1)) ]]
}

# --- what it costs

# User and system time of all threads, ended ones included. The kernel scales these two to the time that really passed, so
# short wake-ups between two ticks count.
cpu_ticks() {
  local stat
  stat=$(<"/proc/$pid/stat")
  # The second field is the command's name in brackets; counted behind it, the times are fields 12 and 13.
  read -ra stat <<<"${stat##*) }"
  echo $((stat[11] + stat[12]))
}

wake_ups() { cat "/proc/$pid"/task/*/status | awk '/^voluntary_ctxt_switches/ {sum += $2} END {print sum}'; }

threads() { find "/proc/$pid/task" -mindepth 1 -maxdepth 1 | wc -l; }

# Waits until ten seconds cost a tick at most and no thread came or went; measures anyway when that never comes.
settle() {
  local tries before
  for tries in {1..12}; do
    before="$(threads) $(cpu_ticks)"
    sleep 10
    if [[ $(threads) == "${before% *}" ]] && (($(cpu_ticks) - ${before#* } <= 1)); then return; fi
  done
  say "garrison is still busy after $((10 * tries)) s; measuring all the same"
}

mib() { awk -v "name=$1:" '$1 == name {printf "%.1f", $2 / 1024}' "/proc/$pid/smaps_rollup"; }

measure() { # SECONDS ROLE PODS [probed]: prints the row
  local ticks wakes memory='' cpu='' pods="$3${4:+ $4}"
  start_node
  say "$2, $pods pods: starting"
  start_garrison "$2"
  run_pods "$2" "$3" "${4:-}"
  settle
  say "$2, $pods pods: watching for $1 s"
  ticks=$(cpu_ticks) wakes=$(wake_ups)
  sleep "$1"
  ticks=$(($(cpu_ticks) - ticks)) wakes=$(($(wake_ups) - wakes))
  # Budgets are the agent's; with control in the same process there is none.
  case $2-$pods in
    agent-0) memory='≤ 8' ;;
    "agent-$many") memory='≤ 15' cpu='≤ 0.1' ;;
    "agent-$many probed") memory='≤ 15' cpu='≤ 0.5' ;;
  esac
  # shellcheck disable=SC2016 # Markdown's backquotes
  printf '| `garrison %s` | %s | %s | %s | %s | %s | %s | %s | %s | %d | %d |\n' "$2" "$pods" "$memory" "$(mib Pss)" \
    "$(mib Pss_Anon)" "$(mib Rss)" "$cpu" "$(awk "BEGIN {printf \"%.2f\", 100 * $ticks / $(getconf CLK_TCK) / $1}")" \
    "$(awk "BEGIN {printf \"%.1f\", $wakes / $1}")" "$(threads)" "$(find "/proc/$pid/fd" -mindepth 1 | wc -l)"
}

measure_all() { # SECONDS ROLE...
  local seconds=$1 role pods
  shift
  cat <<TABLE
| | pods | PSS budget, MiB | PSS | of it anonymous | RSS | CPU budget, % of a core | CPU | wake-ups per s | threads | files |
|---|---|---|---|---|---|---|---|---|---|---|
TABLE
  for role in "$@"; do
    # A shell of its own for each row, whose end takes the node down.
    for pods in 0 3 "$many"; do (measure "$seconds" "$role" "$pods"); done
    (measure "$seconds" "$role" "$many" probed)
  done
  rmdir "$bench"
  cat <<TEXT

Binary, stripped: $(awk "BEGIN {printf \"%.1f\", $(stat -c %s "$garrison") / 1048576}") MiB (budget ≤ 12). CPU over $seconds s,
memory at the end of them; $(nproc) processors, Linux $(uname -r), $(containerd --version | cut -d' ' -f1,3).
TEXT
}

case ${1:-} in
  _measure)
    shift
    measure_all "$@"
    ;;
  *)
    seconds=${1:-60}
    shift || true
    (($#)) || set -- agent up
    "$env_dir/packages.sh" run
    (cd "$top" && cargo build --profile dist --bin garrison)
    "$env_dir/images.sh"
    as_root "$top/tests/bench/idle.sh" _measure "$seconds" "$@"
    ;;
esac
