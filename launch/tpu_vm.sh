#!/usr/bin/env bash
# A sweep on a slice of TPU VMs, by queued resources: creates the slice or takes
# the one there is, waits for it, runs on all of its workers, creates it anew
# when it is preempted, and deletes it. Again: goes on where it stopped.
#
#   launch/tpu_vm.sh run --name=sweep --zone=us-west4-a --topology=v5e:4x4 \
#     --spot --bucket=my-bucket --config=recall --out=/mnt/mattt/recall \
#     --delete
#
# The first word: run (all of this), up (until it is there), status or delete.
# What the workers print is in ~/mattt.log on each of them.
#
# Options:
#   --name=NAME            of the queued resource, and of its node
#   --zone=ZONE  --project=PROJECT (default: that of gcloud)
#   --topology=CHIP:SHAPE  v5e:4x4 is 16 chips, on 4 hosts
#   --runtime=VERSION      the image (default: one for the chip)
#   --spot                 may be preempted, costs less
#   --config=NAME:ARG      whose sweep
#   --out=DIR              directory of its runs, below --mount: seen by all
#   --bucket=NAME          a Cloud Storage bucket to mount
#   --mount=DIR            where to (default: /mnt/mattt)
#   --env-file=FILE        variables for the workers (WANDB_API_KEY=...); copied,
#                          never shown
#   --poll=SECONDS         between two looks (default: 30)
#   --max-restarts=N       after preemptions and lost connections (default: 50)
#   --delete               the slice, when the command has ended
#   --dry-run              show the commands, do nothing
#   -- COMMAND...          this instead of the sweep, on every worker
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$here/launch/common.sh"

name='' zone='' project='' topology='' runtime='' spot='' config='' out=''
bucket='' mount=/mnt/mattt env_file='' poll=30 max_restarts=50 delete=''
parse "name zone project topology runtime config out bucket mount env-file \
poll max-restarts" "spot delete" "$@"
action=${words[0]:-}
((${#words[@]} <= 1)) || fail "unexpected argument ${words[1]}"
[[ $action =~ ^(run|up|status|delete)$ ]] ||
  fail "the first word must be run, up, status or delete, not '$action'"
require name sweep
require zone us-west4-a
check_name "$name"
number poll
number max_restarts
where=("--zone=$zone")
[[ -z $project ]] || where+=("--project=$project")
tpus=(gcloud compute tpus)

# ABSENT, or WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE, SUSPENDED, FAILED, ...
state() {
  local ask found error=0
  ask=("${tpus[@]}" queued-resources describe "$name" "${where[@]}"
    '--format=value(state.state)')
  if [[ -n $dry_run ]]; then
    run "${ask[@]}"
    echo "${pretended:-ABSENT}"
    return
  fi
  found=$("${ask[@]}" 2>&1) || error=$?
  if ((error == 0)); then
    echo "${found##*$'\n'}"
  elif [[ $found == *NOT_FOUND* || $found == *"not found"* ]]; then
    echo ABSENT
  else
    fail "the state of $name is not known: $found"
  fi
}

create() {
  local flags=("--node-id=$name" "--accelerator-type=$accelerator"
    "--runtime-version=$runtime" "${where[@]}")
  [[ -z $spot ]] || flags+=(--spot)
  run "${tpus[@]}" queued-resources create "$name" "${flags[@]}"
}

remove() { # with its nodes; waits until it is gone
  run "${tpus[@]}" queued-resources delete "$name" "${where[@]}" --force --quiet
}

# Returns when the slice is there.
up() {
  local now last='' failures=0
  while true; do
    now=$(state) || exit
    [[ $now == "$last" ]] || say "$name: $now"
    last=$now
    case $now in
      ACTIVE) return ;;
      ABSENT)
        create || fail "$name could not be created"
        [[ -z $dry_run ]] || pretended=ACTIVE
        continue
        ;;
      SUSPENDED) remove && continue ;;
      FAILED)
        failures=$((failures + 1))
        ((failures <= 3)) || fail "$name could not be created, 4 times"
        remove && continue
        ;;
      ACCEPTED | CREATING | DELETING | PROVISIONING | SUSPENDING) ;;
      WAITING_FOR_RESOURCES) ;;
      *) fail "$name is in a state that is not known: $now" ;;
    esac
    sleep "$poll"
  done
}

on_workers() {
  run "${tpus[@]}" tpu-vm ssh "$name" "${where[@]}" --worker=all "--command=$1"
}

to_workers() {
  run "${tpus[@]}" tpu-vm scp "$1" "$name:$2" "${where[@]}" --worker=all
}

set_up() {
  local code setup=(mattt/launch/setup_host.sh --extra=tpu)
  [[ -z $bucket ]] || setup+=("--bucket=$bucket" "--mount=$mount")
  code=$(mktemp -t mattt-XXXXXX.tar.gz)
  run git -C "$here" archive --output="$code" HEAD || return
  # shellcheck disable=SC2088 # the tilde is for the workers
  to_workers "$code" '~/mattt.tar.gz' || return
  rm -f "$code"
  if [[ -n $env_file ]]; then
    # shellcheck disable=SC2088
    to_workers "$env_file" '~/.mattt.env' || return
  fi
  on_workers "touch ~/.mattt.env && chmod 600 ~/.mattt.env && mkdir -p mattt && \
tar -xzf mattt.tar.gz -C mattt && $(quoted "${setup[@]}")"
}

# One whole try. The lock makes a new one wait for a command that still runs
# although its connection was lost.
try() {
  set_up || return
  on_workers "cd ~ && set -a && . ~/.mattt.env && set +a && \
PATH=~/mattt/.cache/venv/bin:\$PATH flock ~/mattt.lock $(quoted "${command[@]}") \
>>~/mattt.log 2>&1; code=\$?; tail -n 20 ~/mattt.log; exit \$code"
}

run_all() {
  local code restarts
  for ((restarts = 0; ; restarts++)); do
    up
    code=0
    try || code=$?
    ((code != 0)) || return 0
    if ((restarts >= max_restarts)); then
      say "given up after $restarts restarts (exit code $code)"
      return 1
    fi
    sleep "$poll" # a preemption shows a little later
    # 42: preempted, and saved; 128 and more: killed, or 255, no connection.
    if [[ $(state) == ACTIVE ]] && ((code != 42 && code < 128)); then
      say "the command failed (exit code $code): see ~/mattt.log on the workers"
      return "$code"
    fi
    say "exit code $code: once more"
  done
}

case $action in
  status)
    now=$(state)
    [[ -n $dry_run ]] || echo "$now"
    exit
    ;;
  delete)
    [[ -z $dry_run ]] || pretended=ACTIVE
    if [[ $(state) == ABSENT ]]; then say "$name is not there"; else remove; fi
    exit
    ;;
esac

require topology v5e:4x4
(($(tpu_slices "$topology") == 1)) ||
  fail "--topology=$topology: for several slices use launch/xpk.sh"
accelerator=$(tpu_type "$topology")
if [[ -z $runtime ]]; then
  case $accelerator in
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) runtime=tpu-ubuntu2204-base ;;
  esac
fi
if [[ $action == up ]]; then
  up
  exit
fi
sweep_command "$config" "$out" --together
[[ -z $env_file || -r $env_file ]] || fail "--env-file=$env_file: no such file"
code=0
run_all || code=$?
if [[ -n $delete ]]; then remove; fi
exit "$code"
