# shellcheck shell=bash
# What the scripts of this directory share: where things are, talking to the user, waiting with a bound, and
# daemons known by a pid file. Sourced, never run.
# shellcheck disable=SC2034 # the variables are for those who source this
set -euo pipefail
umask 022

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$top/target}
env_dir=$top/tests/env
images=$target/images

# A root shell of Debian made by plain `su` lacks the sbin directories; rustup's is not in every non-login shell's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:${HOME:-/root}/.cargo/bin

# Messages go to stderr: what a caller wants to read (a socket's path) has stdout for itself.
say() { printf '%s\n' "$@" >&2; }
die() {
  say "error: $*"
  exit 1
}

as_root() {
  if ((EUID == 0)); then "$@"; else sudo env "PATH=$PATH" "CARGO_TARGET_DIR=$target" "$@"; fi
}

have() { # COMMAND or /PATH
  if [[ $1 == /* ]]; then [[ -e $1 ]]; else command -v "$1" >/dev/null; fi
}

# Runs CMD until it succeeds; dies after SECONDS, naming what it waited for.
wait_until() { # SECONDS WHAT CMD...
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || die "gave up waiting for $what"
    sleep 0.1
  done
}

# True while the process of a pid file runs and its command line names the pid file's directory. The second half
# keeps a pid that was given to another process meanwhile from being taken for ours.
is_running() { # DIR NAME
  local pid
  pid=$(cat "$1/$2.pid" 2>/dev/null) || return 1
  { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF -e "$1/" -e "$1 "
}

start_daemon() { # DIR NAME CMD...
  local dir=$1 name=$2
  shift 2
  setsid "$@" >>"$dir/$name.log" 2>&1 </dev/null 9>&- &
  echo $! >"$dir/$name.pid"
}

stop_daemon() { # DIR NAME
  local dir=$1 name=$2 pid end
  if is_running "$dir" "$name"; then
    pid=$(<"$dir/$name.pid")
    kill -TERM "$pid" 2>/dev/null || true
    end=$((SECONDS + 10))
    while is_running "$dir" "$name"; do
      if ((SECONDS >= end)); then
        kill -KILL "$pid" 2>/dev/null || true
      fi
      sleep 0.05
    done
  fi
  rm -f "$dir/$name.pid"
}

is_listening() { # PORT
  [[ -n $(ss -Hltn "sport = :$1") ]]
}

free_port() { # FIRST: prints the first port from there on that nobody listens on
  local port=$1
  while is_listening "$port"; do port=$((port + 1)); done
  echo "$port"
}
