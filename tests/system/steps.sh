# shellcheck shell=bash
# Tests that are functions, run one after the other, and what they say. Sourced after lib.sh by who has `show_trouble` and `kube`.

passed=0 failed=0

run() { # TEST
  local rc start=$SECONDS
  say "" "--- ${1//_/ }"
  # A subshell whose outcome is not asked for by the shell's own syntax, or `set -e` would be off in it.
  set +e
  (set -e; "$1")
  rc=$?
  set -e
  if ((rc == 0)); then
    passed=$((passed + 1)) && say "ok ($((SECONDS - start)) s)"
  else
    failed=$((failed + 1)) && say "FAILED: $1" && show_trouble
  fi
}

# Applies a DaemonSet of one container with limits.
apply_limited() { # NAME LIMITS COMMAND
  kube apply -f - <<YAML
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: $1, namespace: default}
spec:
  selector: {matchLabels: {app: $1}}
  template:
    metadata: {labels: {app: $1}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: busybox:1.35
        command: [sh, -c, "$3"]
        resources: {limits: {$2}}
YAML
}

equals() { # WANTED FOUND WHAT
  [[ $1 == "$2" ]] || { diff <(echo "$1") <(echo "$2") >&2 || true; die "$3"; }
}

contains() { # TEXT PART
  [[ $1 == *"$2"* ]] || die "\"$2\" is not in:
$1"
}
