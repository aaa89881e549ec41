#!/usr/bin/env bash
# A sweep on GKE, as JobSets: each does a share of the runs on slices of its
# own, and starts again where it stopped when it is preempted (exit code 42).
# Again: what is there is left alone; what failed is submitted anew.
#
#   launch/xpk.sh submit --name=sweep --topology=v5e:4x4 --image=IMAGE \
#     --bucket=my-bucket --config=recall --out=/mnt/mattt/recall --shares=2
#
# The first word: submit, render (print the manifests), status, wait (until all
# have ended; exit code 1 if one failed) or delete.
#
# Options:
#   --name=NAME            of the JobSets: NAME, or NAME-0, NAME-1, ...
#   --shares=N             JobSets (default: 1)
#   --topology=CHIP:SHAPE  v5e:4x4, 2*v5e:4x4 (slices), as in `mattt plan`
#   --image=IMAGE          with mattt_jax in it: launch/Dockerfile
#   --config=NAME:ARG      whose sweep
#   --out=DIR              directory of its runs, below --mount
#   --bucket=NAME          a Cloud Storage bucket, mounted by GKE
#   --mount=DIR            where to (default: /mnt/mattt)
#   --secret=NAME          a Kubernetes Secret: its keys become variables
#   --spot                 on spot nodes
#   --max-restarts=N       (default: 50)
#   --with=kubectl|xpk     who submits (default: kubectl)
#   --namespace=NAME  --service-account=NAME  --queue=NAME (of Kueue)
#                          (with kubectl)
#   --cluster=NAME  --project=NAME  --zone=ZONE  --storage=NAME
#                          (with xpk, whose `xpk storage attach` mounts)
#   --poll=SECONDS         between two looks of wait (default: 30)
#   --dry-run              show the commands, do nothing
#   -- COMMAND...          this instead of the sweep
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$here/launch/common.sh"

name='' shares=1 topology='' image='' config='' out='' bucket=''
mount=/mnt/mattt secret='' spot='' max_restarts=50 with=kubectl
namespace=default service_account=default queue='' cluster='' project=''
zone='' storage='' poll=30
parse "name shares topology image config out bucket mount secret \
max-restarts with namespace service-account queue cluster project zone storage \
poll" "spot" "$@"
action=${words[0]:-}
((${#words[@]} <= 1)) || fail "unexpected argument ${words[1]}"
[[ $action =~ ^(submit|render|status|wait|delete)$ ]] ||
  fail "the first word must be submit, render, status, wait or delete, not" \
    "'$action'"
[[ $with =~ ^(kubectl|xpk)$ ]] || fail "--with=$with must be kubectl or xpk"
require name sweep
number shares
((shares >= 1)) || fail "--shares=$shares must be at least 1"
number max_restarts
number poll
python=python3 # one that has what mattt_jax needs
for venv in "$here/.cache/venv" "$here/.venv"; do
  [[ ! -x $venv/bin/python ]] || python=$venv/bin/python
done
names=("$name")
if ((shares > 1)); then
  names=()
  for ((i = 0; i < shares; i++)); do names+=("$name-$i"); done
fi
for one in "${names[@]}"; do check_name "$one"; done

# ABSENT, Completed, Failed, Suspended (waits in a queue) or Running; then how
# often it was started again.
state() {
  local found ask
  ask=(kubectl get jobset "$1" "--namespace=$namespace" --ignore-not-found
    '--output=jsonpath={.metadata.name}/{.status.terminalState}/{.spec.suspend}/{.status.restarts}')
  if [[ -n $dry_run ]]; then
    run "${ask[@]}"
    echo "${pretended:-ABSENT}"
    return
  fi
  found=$("${ask[@]}") ||
    fail "the state of $1 is not known: kubectl failed"
  local jobset terminal suspended restarts
  IFS=/ read -r jobset terminal suspended restarts <<<"$found" || true
  if [[ -z $jobset ]]; then
    echo ABSENT
  elif [[ -n $terminal ]]; then
    echo "$terminal ${restarts:-0}"
  elif [[ $suspended == true ]]; then
    echo "Suspended ${restarts:-0}"
  else
    echo "Running ${restarts:-0}"
  fi
}

# The command of share number $1.
share() {
  if ((${#command[@]} > 0)); then
    share=("${command[@]}")
    return
  fi
  local command=()
  sweep_command "$config" "$out" --together "--index=$1" "--of=$shares"
  share=("${command[@]}")
}

manifest() { # of the JobSet $1, share number $2
  local flags=("--name=$1" "--topology=$topology" "--image=$image"
    "--namespace=$namespace" "--bucket=$bucket" "--mount=$mount"
    "--secret=$secret" "--queue=$queue" "--service-account=$service_account"
    "--max-restarts=$max_restarts")
  [[ -z $spot ]] || flags+=(--spot)
  share "$2"
  "$python" "$here/launch/render_jobset.py" "${flags[@]}" -- "${share[@]}"
}

submit() { # JobSet $1, share number $2
  local text flags
  if [[ $with == kubectl ]]; then
    text=$(manifest "$1" "$2")
    say "+ kubectl apply --filename=- # the manifest of $1"
    [[ -n $dry_run ]] || kubectl apply --filename=- <<<"$text"
    return
  fi
  require cluster my-cluster
  require image IMAGE
  flags=("--workload=$1" "--cluster=$cluster" "--tpu-type=$(tpu_type "$topology")"
    "--num-slices=$(tpu_slices "$topology")" "--docker-image=$image"
    "--max-restarts=$max_restarts" --restart-on-exit-codes=42
    --termination-grace-period-seconds=120)
  [[ -z $project ]] || flags+=("--project=$project")
  [[ -z $zone ]] || flags+=("--zone=$zone")
  [[ -z $storage ]] || flags+=("--storage=$storage")
  [[ -z $spot ]] || flags+=(--spot)
  [[ -z $secret ]] || fail "--secret=$secret: not with xpk; use --with=kubectl"
  share "$2"
  run xpk workload create "${flags[@]}" "--command=$(quoted "${share[@]}")"
}

case $action in
  status)
    for one in "${names[@]}"; do
      now=$(state "$one")
      [[ -n $dry_run ]] || printf '%s  %s\n' "$one" "$now"
    done
    ;;
  delete)
    for one in "${names[@]}"; do
      run kubectl delete jobset "$one" "--namespace=$namespace" \
        --ignore-not-found
    done
    ;;
  wait)
    code=0 pretended=Completed
    for one in "${names[@]}"; do
      while true; do
        now=$(state "$one")
        case $now in
          Completed*) break ;;
          Failed* | ABSENT)
            code=1
            break
            ;;
        esac
        sleep "$poll"
      done
      [[ -n $dry_run ]] || printf '%s  %s\n' "$one" "$now"
    done
    exit "$code"
    ;;
  render | submit)
    require topology v5e:4x4
    [[ $action == render || -n $dry_run ]] || command -v "$with" >/dev/null ||
      fail "--with=$with: there is no $with here"
    for ((i = 0; i < shares; i++)); do
      one=${names[$i]}
      if [[ $action == render ]]; then
        ((i == 0)) || echo ---
        manifest "$one" "$i"
        continue
      fi
      now=$(state "$one")
      case $now in
        ABSENT) submit "$one" "$i" ;;
        Failed*)
          run kubectl delete jobset "$one" "--namespace=$namespace"
          submit "$one" "$i"
          ;;
        *) say "$one is there: $now" ;;
      esac
    done
    ;;
esac
