# shellcheck shell=bash
# What the scripts here share; sourced, not run. A script sets a variable for
# each of its options (--max-restarts: max_restarts) to its default, calls
# `parse`, and does everything that changes something through `run`.

dry_run=''
words=()     # arguments that are no options
command=()   # what stands behind --

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "${0##*/}: error: $*"
  exit 2
}

# The comment at the top of the script.
usage() { sed -n '2,$ { /^#SBATCH/q; /^[^#]/q; s/^# \{0,1\}//p }' "$0"; }

# Words as a shell reads them back.
quoted() {
  local out
  printf -v out '%q ' "$@"
  printf '%s' "${out% }"
}

# Shows a command and, unless --dry-run, does it.
run() {
  say "+ $(quoted "$@")"
  [[ -n $dry_run ]] || "$@"
}

# parse "NAMES OF OPTIONS WITH A VALUE" "NAMES OF FLAGS" "$@"
parse() {
  local _options=" $1 " _flags=" $2 " _name
  shift 2
  while (($#)); do
    _name=${1%%=*}
    _name=${_name#--}
    case $1 in
      --help | -h)
        usage
        exit 0
        ;;
      --dry-run) dry_run=1 ;;
      --)
        command=("${@:2}")
        return
        ;;
      --*=*)
        [[ $_options == *" $_name "* ]] || unknown "$_name" "$_options$_flags"
        printf -v "${_name//-/_}" %s "${1#*=}"
        ;;
      --*)
        [[ $_options != *" $_name "* ]] ||
          fail "--$_name needs a value: --$_name=..."
        [[ $_flags == *" $_name "* ]] || unknown "$_name" "$_options$_flags"
        printf -v "${_name//-/_}" 1
        ;;
      *) words+=("$1") ;;
    esac
    shift
  done
}

unknown() {
  local known
  read -ra known <<<"$2"
  fail "unknown option --$1: there are ${known[*]/#/--} --dry-run --help"
}

# require VARIABLE EXAMPLE: an option without which nothing works.
require() {
  [[ -n ${!1} ]] || fail "--${1//_/-} is missing: add --${1//_/-}=$2"
}

# number VARIABLE: a whole number.
number() {
  [[ ${!1} =~ ^[0-9]+$ ]] || fail "--${1//_/-}=${!1} must be a whole number"
}

# check_name NAME: one that Google Cloud and Kubernetes both take.
check_name() {
  [[ $1 =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    fail "--name=$1 must be at most 40 small letters, digits and dashes," \
      "a letter first"
}

# tpu_slices TOPOLOGY: 2 for 2*v5e:4x4.
tpu_slices() {
  local slices=1
  [[ $1 != *\** ]] || slices=${1%%\**}
  [[ $slices =~ ^[1-9][0-9]*$ ]] || bad_topology "$1"
  echo "$slices"
}

# tpu_type TOPOLOGY: what Google Cloud calls a slice of CHIP:SHAPE.
tpu_type() {
  local slice=${1#*\*} chips=1 side sides
  local chip=${slice%:*} shape=${slice#*:}
  [[ $shape =~ ^[0-9]+(x[0-9]+)+$ ]] || bad_topology "$1"
  IFS=x read -ra sides <<<"$shape"
  for side in "${sides[@]}"; do chips=$((chips * side)); done
  case $chip in
    v5e) echo "v5litepod-$chips" ;;
    v6e) echo "v6e-$chips" ;;
    v4 | v5p) echo "$chip-$((2 * chips))" ;; # counted in cores
    *) fail "--topology=$1: unknown chip $chip: there are v4 v5e v5p v6e" ;;
  esac
}

bad_topology() {
  fail "--topology=$1 must be CHIP:SHAPE, as v5e:4x4, or 2*v5e:4x4 (slices)"
}

# sweep_command EXPERIMENT OUT MORE...: sets command, unless one stands behind --
sweep_command() {
  if ((${#command[@]} == 0)); then
    [[ -n $1 ]] || fail "--config is missing: add --config=recall:hard"
    [[ -n $2 ]] || fail "--out is missing: add --out=runs/sweep"
    command=(mattt sweep "--config=$1" "--out=$2" "${@:3}")
  fi
}
