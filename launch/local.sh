#!/usr/bin/env bash
# A sweep on this machine: sets it up, runs the sweep, again if it is preempted.
#
#   launch/local.sh --config=recall:tiny --out=runs/sweep --workers=2
#
# Options:
#   --config=NAME:ARG      whose sweep
#   --out=DIR              directory of its runs (default: runs/sweep)
#   --workers=N            processes at a time (default: 1)
#   --extra=cpu|tpu|cuda   which JAX to install (default: cpu)
#   --venv=DIR             the environment (default: .cache/venv)
#   --max-restarts=N       after exit code 42, a preemption (default: 20)
#   --dry-run              show the commands, do nothing
#   -- COMMAND...          this instead of the sweep
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$here/launch/common.sh"

config='' out=runs/sweep workers=1 extra=cpu venv=$here/.cache/venv
max_restarts=20
parse "config out workers extra venv max-restarts" "" "$@"
((${#words[@]} == 0)) || fail "unexpected argument ${words[0]}"
number workers
number max_restarts
sweep_command "$config" "$out" "--workers=$workers"

setup=("$here/launch/setup_host.sh" "--extra=$extra" "--venv=$venv")
[[ -z $dry_run ]] || setup+=(--dry-run)
"${setup[@]}"
export PATH="$venv/bin:$PATH"

for ((tries = 0; ; tries++)); do
  code=0
  run "${command[@]}" || code=$?
  ((code == 42)) || exit "$code"
  ((tries < max_restarts)) || fail "preempted $((tries + 1)) times: given up"
  say "preempted: once more"
done
