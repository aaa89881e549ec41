#!/usr/bin/env bash
# Makes a host ready: a virtual environment with mattt_jax in it, and a bucket
# mounted if there is one. Again: nothing is done that is done already.
#
#   launch/setup_host.sh --extra=tpu --bucket=my-bucket --mount=/mnt/runs
#
# Options:
#   --extra=cpu|tpu|cuda  which JAX (default: cpu)
#   --venv=DIR            the environment (default: .cache/venv)
#   --bucket=NAME         a Cloud Storage bucket to mount, with gcsfuse
#   --mount=DIR           where to (default: /mnt/mattt)
#   --dry-run             show the commands, do nothing
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$here/launch/common.sh"

extra=cpu venv=$here/.cache/venv bucket='' mount=/mnt/mattt
parse "extra venv bucket mount" "" "$@"
((${#words[@]} == 0)) || fail "unexpected argument ${words[0]}"
case $extra in
  cpu) what=$here ;;
  tpu | cuda) what="${here}[$extra]" ;;
  *) fail "--extra=$extra must be cpu, tpu or cuda" ;;
esac

python=''
for candidate in python3.13 python3.12 python3.11 python3; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    2>/dev/null; then
    python=$candidate
    break
  fi
done

# Two that come at once: one waits for the other, then finds it done.
if [[ -z $dry_run ]]; then
  mkdir -p "$(dirname "$venv")"
  exec 9>"$venv.lock"
  flock 9
fi

stamp=$venv/.mattt-setup
wanted=$(
  printf '%s %s\n' "$what" "$extra"
  cat "$here/pyproject.toml" "$here/requirements.lock"
)
wanted=$(sha256sum <<<"$wanted")
if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
  say "$venv is ready"
else
  if [[ -z $python ]]; then # TPU images of Ubuntu 22.04 come with 3.10
    run sudo apt-get update -q
    run sudo apt-get install -y -q python3.11-venv
    python=python3.11
  fi
  run "$python" -m venv --clear "$venv"
  # The lock as constraints: its versions, but only of what is needed here.
  run "$venv/bin/pip" install -q -c "$here/requirements.lock" -e "$what"
  [[ -n $dry_run ]] || printf '%s\n' "$wanted" >"$stamp"
fi

if [[ -n $bucket ]] && ! mountpoint -q "$mount"; then
  command -v gcsfuse >/dev/null || [[ -n $dry_run ]] ||
    fail "--bucket=$bucket needs gcsfuse:" \
      "https://cloud.google.com/storage/docs/cloud-storage-fuse/install"
  run sudo mkdir -p "$mount"
  run sudo chown "$(id -u):$(id -g)" "$mount"
  run gcsfuse --implicit-dirs "$bucket" "$mount"
fi
