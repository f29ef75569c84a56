#!/usr/bin/env bash
# The demo: garrison with a containerd of its own on this host, the DaemonSets of examples/ applied with kubectl. Everything it
# writes is below target/demo, but for what pods need elsewhere: a bridge, iptables rules, cgroups and logs. `down`
# removes those too.
#
#   demo.sh up      again and again as you like: what runs already is kept, garrison is restarted when it was rebuilt
#   demo.sh down
source "$(dirname "$0")/lib.sh"
source "$env_dir/runtime.sh"
source "$env_dir/leftovers.sh"

demo=$target/demo
garrison=$target/release/garrison
network="garrison-demo" # the CNI network and its bridge; the pods' cgroup too
node=demo
metrics_port=9100 # the hostPort of examples/node-exporter.yaml

# One stream, so that messages and what commands print stay in order wherever they go.
exec 2>&1
step() { say "" "==> $*"; }

# With a cache of its own: kubectl would leave one in the user's home.
kube() { kubectl --kubeconfig "$demo/admin.kubeconfig" --cache-dir "$demo/kubectl-cache" "$@"; }

# The registries answer, be it with 401, or they do not.
registries_answer() {
  local host
  for host in registry-1.docker.io registry.k8s.io; do
    curl -sS -o /dev/null --max-time 10 "https://$host/v2/" 2>/dev/null || return 1
  done
}

# --- up

refuse_a_taken_port() {
  # A hostPort is a rule, not a listener, so a listener is never the demo's own pod.
  is_listening "$metrics_port" || return 0
  ss -Hltnp "sport = :$metrics_port"
  die "port $metrics_port is taken by the process above, and examples/node-exporter.yaml wants it: stop that process and try again"
}

free_subnet() {
  local third subnet
  for third in {0..255}; do
    subnet=10.231.$third.0/24
    # No route into it, and none that covers it but the default.
    if [[ -z $(ip -4 route show table all root "$subnet"; ip -4 route show table all match "$subnet" | grep -v '^default') ]]; then
      echo "$subnet"
      return
    fi
  done
  die "all of 10.231.0.0/16 is in use on this machine; the demo needs a /24 of it"
}

configure_runtime() { # DIR
  [[ ! -e $1/containerd.toml ]] || return 0
  write_containerd_config "$1"
  write_cni_config "$1" "$network" "$network" "$(free_subnet)"
}

start_local_registry() { # DIR
  local port
  is_running "$1" registry && return
  port=$(free_port 5010)
  write_registry_config "$1" "$port" "$images/registry" true
  write_mirror "$1" "$port"
  start_registry "$1" "$port" "$images/bin/docker-registry"
}

start_garrison() { # DIR
  local dir=$1
  if is_running "$dir" garrison; then
    # The link of a program whose file was replaced ends in " (deleted)".
    [[ $(readlink "/proc/$(<"$dir/garrison.pid")/exe") != "$garrison" ]] || return 0
    say "garrison was rebuilt: restarting it, the pods run on"
    stop_daemon "$dir" garrison
  fi
  # The port stays the same over restarts, so that a kubeconfig in use stays right.
  [[ -e $dir/port ]] || free_port 6443 >"$dir/port"
  # Logs stay in /var/log, where fluentd looks for them.
  start_daemon "$dir" garrison "$garrison" up --state-dir "$dir/garrison" --listen "127.0.0.1:$(<"$dir/port")" \
    --node-name "$node" --container-runtime-endpoint "unix://$dir/containerd.sock" \
    --root-dir "$dir/kubelet" --cni-conf-dir "$dir/cni" --cgroup-root "/$network" \
    --image-gc-high-threshold 100 --eviction-hard 'memory.available<100Mi' # whoever tries it may have a disk that is fuller than a node's should be
  wait_until 30 "garrison's kubeconfig" test -s "$dir/garrison/admin.kubeconfig"
  # Whoever called sudo is the one who will use it.
  install -m 600 -o "${SUDO_UID:-0}" -g "${SUDO_GID:-0}" "$dir/garrison/admin.kubeconfig" "$dir/admin.kubeconfig"
}

apply_examples() {
  local namespace name
  wait_until 60 "node $node to register" kube get node "$node"
  kube wait --for=condition=Ready "node/$node" --timeout=60s
  kube apply -f "$top/examples"
  kube get -f "$top/examples" -o 'jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{"\n"}{end}' |
    while read -r namespace name; do
      kube rollout status --namespace "$namespace" "daemonset/$name" --timeout=300s </dev/null
    done
}

show() {
  local metrics=http://127.0.0.1:$metrics_port/metrics
  step "kubectl get nodes,daemonsets,pods -A -o wide"
  kube get nodes,daemonsets,pods -A -o wide
  step "curl -s $metrics    (an excerpt)"
  wait_until 30 "the node exporter on port $metrics_port" curl -fsS "$metrics"
  curl -fsS "$metrics" | grep -E '^node_(load1|uname_info|exporter_build_info|memory_MemAvailable_bytes|cpu_seconds_total.*mode="idle")'
  step "try next"
  cat <<TEXT
  export KUBECONFIG=$demo/admin.kubeconfig
  kubectl label node $node gpu=true             # gpu-monitor comes; gpu- instead of gpu=true and it goes
  kubectl logs -n kube-system -l app=fluentd
  kubectl describe daemonset fluentd -n kube-system
  kubectl taint node $node control=yes:NoSchedule    # where may a pod run? control- takes the taint away
  kubectl delete daemonset fluentd -n kube-system
  make demo-down                              # removes everything again
logs: $demo/garrison.log, $demo/containerd.log
TEXT
}

show_logs() {
  local log
  for log in garrison containerd registry; do
    [[ ! -s $demo/$log.log ]] || { say "--- the end of $demo/$log.log"; tail -n 15 "$demo/$log.log"; }
  done
  say "the demo did not come up; \`make demo-down\` removes what there is"
}

start() { # SOURCE of the images: registries or local
  local dir
  mkdir -p "$demo"
  trap '[[ $? == 0 ]] || show_logs' EXIT
  dir=$(short_path "$demo")
  refuse_a_taken_port
  note_what_is_absent "$dir"

  step "starting containerd and garrison in target/demo"
  configure_runtime "$dir"
  if [[ $1 == local ]]; then
    start_local_registry "$dir"
  else
    rm -rf "$dir/registries/_default"
  fi
  is_running "$dir" containerd || start_containerd "$dir"
  start_garrison "$dir"

  step "applying examples/"
  apply_examples
  show
}

up() {
  local from=registries version
  step "looking for what the demo needs"
  "$env_dir/packages.sh" run
  version=$(kubectl version --client -o yaml 2>/dev/null | sed -n 's/^ *gitVersion: v//p')
  say "kubectl: $(command -v kubectl), $version"
  case $version in
    1.?.* | 1.1?.* | 1.2[0-6].*) say "kubectl before 1.27 is not supported; the README says what this one can do" ;;
  esac

  step "building garrison"
  (cd "$top" && cargo build --release)

  step "choosing where images come from"
  if registries_answer; then
    say "docker.io and registry.k8s.io answer: pulling the real images"
  else
    from=local
    say "docker.io or registry.k8s.io does not answer: a local registry serves a real node-exporter from Debian and stand-ins for the others"
    "$env_dir/images.sh"
  fi
  as_root "$env_dir/demo.sh" _start "$from"
}

# --- down

delete_pods() { # DIR
  is_running "$1" garrison || return 0
  step "deleting the DaemonSets"
  kube delete daemonsets --all --all-namespaces --timeout=60s || return 0
  kube delete pods --all --all-namespaces --timeout=60s || return 0
}

stop() {
  local dir daemon
  if [[ ! -e $demo/absent-before ]]; then
    rm -rf "$demo"
    say "the demo is not there"
    return
  fi
  dir=$(short_path "$demo")
  delete_pods "$dir"
  step "removing the rest"
  stop_daemon "$dir" garrison
  end_pods "$dir"
  for daemon in containerd registry; do stop_daemon "$dir" "$daemon"; done
  unmount_below "$(realpath "$demo")"
  wait_until 10 "the pods' cgroups to be empty" remove_cgroups "$network"
  remove_network "$dir" "$network"
  remove_empty_directories "$dir"
  remove_directory "$dir"
  say "the demo is gone; what it installed and built stays"
}

case ${1:-} in
  up) up ;;
  down) as_root "$env_dir/demo.sh" _stop ;;
  _start) start "$2" ;;
  _stop) stop ;;
  *) die "usage: demo.sh up|down" ;;
esac
