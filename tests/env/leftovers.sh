# shellcheck shell=bash
# What pods leave on a host outside of the directories given to containerd and garrison: network devices and namespaces,
# iptables rules, log directories. Noted before the first pod, removed after the last. Sourced after runtime.sh. DIR is
# always the directory of the runtime the pods ran on, NETWORK the name of its CNI network and bridge.
#
# One thing stays: where AppArmor is on, the profile cri-containerd.apparmor.d, which every containerd of the machine shares.

pod_api=169.254.71.1

# Notes what the machine does not have yet, before the first pod.
note_what_is_absent() { # DIR
  local path
  [[ ! -e $1/absent-before ]] || return 0
  for path in /run/{containerd,netns} /var/lib/{cni,docker} /var/log/{pods,containers}; do
    [[ -e $path ]] || echo "$path"
  done >"$1/absent-before"
  iptables-save >"$1/iptables-before"
  ip6tables-save >"$1/ip6tables-before"
  cp /proc/sys/net/ipv4/ip_forward "$1/ip-forward-before"
  ip -brief address show dev lo >"$1/loopback-before"
}

# Ends the pods that nobody took down in order. What they hold outside of containerd is found from its records, which are
# kept in DIR/left.json: they go with the containers, and this may have to be run again.
end_pods() { # DIR
  local dir=$1
  [[ -d $dir/state/io.containerd.runtime.v2.task/k8s.io ]] || return 0
  is_running "$dir" containerd || start_containerd "$dir"
  wait_until 30 "containers to end (see $dir/containerd.log)" end_containers "$dir"
  [[ -e $dir/left.json ]] || return 0
  remove_left_networks "$dir/left.json"
  remove_left_logs "$dir/left.json"
}

# Succeeds when there is no container. Once a task has ended, containerd's CRI service deletes it too, so either side may find
# it gone: only the outcome counts.
end_containers() { # DIR
  local dir=$1 ids id
  mapfile -t ids < <(cri_ctr "$dir" containers ls --quiet)
  ((${#ids[@]})) || return 0
  for id in "${ids[@]}"; do
    cri_ctr "$dir" containers info "$id" >>"$dir/left.json" || true
    cri_ctr "$dir" tasks delete --force "$id" || true
    cri_ctr "$dir" containers delete "$id" || true
  done
  return 1
}

cri_ctr() { # DIR ARGS...
  local dir=$1
  shift
  ctr --address "$dir/containerd.sock" --namespace k8s.io "$@"
}

remove_left_networks() { # FILE
  local path id
  while read -r path; do
    [[ ! -e $path ]] || { umount "$path"; rm -f "$path"; }
  done < <(jq -r '.Spec.linux.namespaces[] | select(.type == "network") | .path // empty | select(startswith("/proc/") | not)' "$1" | sort -u)
  for id in $(jq -r .ID "$1"); do rm -f /var/lib/cni/results/*-"$id"-*; done
}

remove_left_logs() { # FILE
  local namespace name uid
  while IFS=$'\t' read -r namespace name uid; do
    rm -rf "/var/log/pods/${namespace}_${name}_$uid"
    [[ ! -d /var/log/containers ]] || find /var/log/containers -lname "/var/log/pods/${namespace}_${name}_$uid/*" -delete
  done < <(jq -r '.Labels | select(."io.kubernetes.pod.uid") |
    [."io.kubernetes.pod.namespace", ."io.kubernetes.pod.name", ."io.kubernetes.pod.uid"] | @tsv' "$1" | sort -u)
}

unmount_below() { # DIR
  local mounted
  findmnt --raw --noheadings --output TARGET | sort -r | while read -r mounted; do
    [[ $mounted != "$1"/* ]] || umount "$mounted"
  done
}

# The rules of our network, which exist if a pod was not taken down in order, then the chains the portmap plugin made and
# never removes, if they are ours and nobody else uses them by now.
remove_iptables_rules() { # DIR NETWORK
  local dir=$1 network=$2 rules chains
  rules=$(iptables-save -t nat | grep -F "name: \\\"$network\\\"" | grep '^-A' || true)
  if [[ -n $rules ]]; then
    chains=$(grep -oE -- '-j CNI-[A-Za-z0-9-]+' <<<"$rules" | cut -d' ' -f2 | sort -u)
    delete_rules "$rules" "$chains"
  fi
  ! grep -q '^:CNI-HOSTPORT-DNAT' "$dir/iptables-before" || return 0
  rules=$(iptables-save -t nat | grep '^-A' || true)
  if grep -q '^-A CNI-HOSTPORT-DNAT' <<<"$rules"; then
    say "left: the iptables chains CNI-HOSTPORT-*, which somebody else uses by now"
  elif grep -q CNI-HOSTPORT <<<"$rules"; then
    delete_rules "$(grep -- '-j CNI-HOSTPORT-' <<<"$rules" | grep -v '^-A CNI-')" \
      "$(iptables-save -t nat | sed -nE 's/^:(CNI-HOSTPORT-[A-Z]+) .*/\1/p')"
  fi
}

# With the nft variant of iptables, the first rule makes the table; an empty one stays. portmap looks into IPv6's too.
remove_empty_nat_table() { # DIR iptables|ip6tables ip|ip6
  ! grep -q '^\*nat' "$1/$2-before" || return 0
  "$2-save" -t nat | grep -qE '^-A|^:[^ ]+ -' || nft delete table "$3" nat 2>/dev/null || true
}

# Deletes rules of the nat table, given as iptables-save prints them, and then chains nothing refers to any more.
delete_rules() { # RULES CHAINS: one a line each
  local rule chain
  {
    echo '*nat'
    while read -r rule; do echo "-D ${rule#-A }"; done <<<"$1"
    for chain in $2; do echo "-F $chain"; done
    for chain in $2; do echo "-X $chain"; done
    echo COMMIT
  } | iptables-restore --noflush --wait 10
}

remove_network() { # DIR NETWORK
  ! ip link show "$2" >/dev/null 2>&1 || ip link delete "$2"
  remove_iptables_rules "$1" "$2"
  remove_empty_nat_table "$1" iptables ip
  remove_empty_nat_table "$1" ip6tables ip6
  # The bridge plugin turns forwarding on for the whole machine.
  if [[ $(<"$1/ip-forward-before") == 0 ]]; then echo 0 >/proc/sys/net/ipv4/ip_forward; fi
  # Where pods reach the API.
  grep -qF "$pod_api" "$1/loopback-before" || ip address delete "$pod_api/32" dev lo 2>/dev/null || true
}

# Removes directories that were absent before and hold nothing now. No file is ever removed but the sockets a killed shim
# of containerd leaves.
remove_empty_directories() { # DIR
  local path
  while read -r path; do
    [[ -e $path ]] || continue
    [[ $path != /run/containerd ]] || find "$path" -type s -delete
    find "$path" -depth -type d -exec rmdir --ignore-fail-on-non-empty {} + 2>/dev/null || true
    [[ ! -e $path ]] || say "left, since it is not empty: $path"
  done <"$1/absent-before"
}
