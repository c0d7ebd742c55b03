#!/usr/bin/env bash
# Makes .venv hold exactly what the hashed locks name: scripts/setup.sh [run|dev]
#
#   run    what serving needs (make run)              dev    that, and the tools of the tests (make setup, make test)
#   GATEHOUSE_EXTRA=cpu|gpu    which engine build; default: what .venv holds already, else cpu
#   PYTHON=/path/to/python3.11 which interpreter, when none of python3.11, python3, python is 3.11
#
# A second call with nothing changed returns at once. A changed lock, pyproject.toml, extra or place installs what is
# new and removes what no lock names any more. A set-up that was interrupted is started over.
set -euo pipefail
cd -P "$(dirname "$0")/.."

wanted=${1:-dev}
venv=.venv
stamp=$venv/gatehouse.stamp     # digest, tier and extra of the last complete set-up
unfinished=$venv/gatehouse.unfinished
log=.gatehouse/logs/setup.log
child=

die() { printf 'gatehouse: %s\n' "$*" >&2; exit 1; }
case $wanted in run | dev) ;; *) die "scripts/setup.sh takes 'run' or 'dev', not '$wanted'." ;; esac

# --- is there anything to do? ------------------------------------------------------------------------------------
had_digest='' had_tier='' had_extra=''
[ -f "$stamp" ] && read -r had_digest had_tier had_extra <"$stamp"
extra=${GATEHOUSE_EXTRA:-${had_extra:-cpu}}
case $extra in cpu | gpu) ;; *) die "GATEHOUSE_EXTRA is '$extra'; it must be 'cpu' or 'gpu'." ;; esac
tier=$wanted
[ "$had_tier" = dev ] && tier=dev # tools that are there stay there

digest() {
  { printf '%s %s\n' "$extra" "$PWD"; cat requirements/{cpu,dev,gpu,nixl,torch-cpu}.lock pyproject.toml scripts/setup.sh; } | sha256sum | cut -d' ' -f1
}
current() {
  [ "$had_digest" = "$(digest)" ] && [ "$had_tier" = "$tier" ] && [ ! -e "$unfinished" ] && [ -x "$venv/bin/python" ]
}
if current; then exit 0; fi

mkdir -p .gatehouse/logs
if command -v flock >/dev/null; then
  exec 9>.gatehouse/setup.lock
  flock --nonblock 9 || { echo 'Another set-up is running here; waiting for it.'; flock 9; }
  [ -f "$stamp" ] && read -r had_digest had_tier had_extra <"$stamp"
  if current; then exit 0; fi
fi

# --- what the machine must bring ---------------------------------------------------------------------------------
is_311() { "$1" -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }
python=''
for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3 python; do
  if is_311 "$candidate"; then python=$candidate && break; fi
done
[ -n "$python" ] || die "Python 3.11 is needed and not found (python3 is $(python3 --version 2>/dev/null || echo absent)). \
Install it (Debian 12: apt-get install python3.11 python3.11-venv; elsewhere: pyenv or uv), or name it: make setup PYTHON=/path/to/python3.11"
"$python" -c 'import ensurepip, venv' 2>/dev/null || die "$python cannot make virtual environments: apt-get install python3.11-venv"
[ "$(uname -sm)" = 'Linux x86_64' ] || die "the locks are for Linux x86_64, and this is $(uname -sm): use a Linux machine, a container or a virtual machine."

# --- the steps ---------------------------------------------------------------------------------------------------
trap 'trap - INT TERM; [ -z "$child" ] || kill "$child" 2>/dev/null; echo; die "interrupted; the next set-up starts over."' INT TERM
: >"$log"
step=0 steps=5
[ "$tier" = dev ] && steps=6
say() { step=$((step + 1)) began=$SECONDS text="[$step/$steps] $*"; printf '%s ' "$text"; }
run() { # one command, quiet unless it fails; shows the seconds on a terminal
  printf '\n$ %s\n' "$*" >>"$log"
  "$@" >>"$log" 2>&1 9>&- &
  child=$!
  while [ -t 1 ] && kill -0 "$child" 2>/dev/null; do
    printf '\r%s %d s ' "$text" $((SECONDS - began))
    sleep 0.5
  done
  local status=0
  wait "$child" || status=$?
  child=
  return $status
}
done_() { if [ -t 1 ]; then printf '\r%s done, %d s\n' "$text" $((SECONDS - began)); else printf 'done, %d s\n' $((SECONDS - began)); fi; }
failed() {
  printf 'failed\n\n'
  grep -v '^Requirement already satisfied' "$log" | tail -n 20 >&2
  rm -f "$unfinished" # pip gave up in good order: the next set-up can go on from here
  die "set-up failed at '$*'. The whole log: $log"
}
pip() { run "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }
locked() { pip install --no-deps --require-hashes --only-binary :all: "$@"; }

echo "Setting up Gatehouse in $venv ($extra build, $("$python" --version)); log in $log"

say 'virtual environment'
if [ -e "$unfinished" ] || ! is_311 "$venv/bin/python" || ! grep -qs "$PWD/$venv" "$venv/bin/pip"; then
  rm -rf "$venv"
  run "$python" -m venv "$venv" || failed 'virtual environment'
fi
touch "$unfinished"
rm -f "$stamp"
done_

# Debian package of the one library the CPU engine links and no wheel carries.
say 'system libraries'
if [ "$extra" = cpu ] && ! "$venv/bin/python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { run apt-get update -q && run apt-get install -y -q --no-install-recommends libnuma1; } || failed 'apt-get install libnuma1'
  else
    echo
    die 'the CPU engine needs libnuma.so.1. Install it (Debian, Ubuntu: sudo apt-get install libnuma1) and start again.'
  fi
fi
done_

if [ "$tier" = dev ]; then
  say 'Ray, FastAPI and the tools for the tests'
  locked -r requirements/dev.lock -r requirements/nixl.lock || failed 'requirements/dev.lock'
  done_
fi

# The engine's lock comes after the tools': where the two differ (gpu), the engine's pin is the one that counts.
if [ "$extra" = cpu ]; then
  say 'PyTorch, CPU build (190 MB)'
  locked -r requirements/torch-cpu.lock ||
    locked -r requirements/torch-cpu.lock --extra-index-url https://download.pytorch.org/whl/cpu ||
    failed 'requirements/torch-cpu.lock'
  done_
  say 'vLLM for CPU and what it needs (800 MB, some minutes)'
else
  say 'nothing to prepare for the GPU build' && done_
  say 'vLLM for CUDA and what it needs (8 GB, many minutes)'
fi
locked -r "requirements/$extra.lock" || failed "requirements/$extra.lock"
done_

say 'Gatehouse itself'
locks=("requirements/$extra.lock")
[ "$extra" = cpu ] && locks+=(requirements/torch-cpu.lock)
[ "$tier" = dev ] && locks+=(requirements/dev.lock requirements/nixl.lock)
strangers=$("$venv/bin/python" scripts/strangers.py "${locks[@]}")
# shellcheck disable=SC2086
# (names of distributions, one word each)
[ -z "$strangers" ] || pip uninstall --yes $strangers || failed 'removing what no lock names'
pip install --no-deps --no-build-isolation --editable . || failed 'pip install --editable .'
done_

printf '%s %s %s\n' "$(digest)" "$tier" "$extra" >"$stamp"
rm -f "$unfinished"
printf 'Set-up finished in %d s.\n' "$SECONDS"
