#!/usr/bin/env bash
# Makes .gatehouse/llamacpp hold llama.cpp's server and the writer of its model format, for tests/upstream.
#
#   scripts/llamacpp.sh         what requirements/llamacpp.lock names; returns at once when it is there
#   scripts/llamacpp.sh lock    compiles requirements/llamacpp.lock from requirements/llamacpp.in
#
# llama-cpp-python is compiled from its source archive: a C++ compiler is needed, and 5 to 15 minutes.
# GATEHOUSE_LLAMACPP_JOBS is the number of compilers at work at once (default: 2, each takes about 1 GB of memory).
set -euo pipefail
cd -P "$(dirname "$0")/.."

lock=requirements/llamacpp.lock
venv=.gatehouse/llamacpp
stamp=$venv/gatehouse.stamp
log=.gatehouse/logs/llamacpp.log

die() { printf 'gatehouse: %s\n' "$*" >&2; exit 1; }
[ -x .venv/bin/python ] || die "no .venv. Run 'make setup' first."

if [ "${1:-}" = lock ]; then
  # uv does not read pip's configuration: tell it what this machine's pip is told.
  index=()
  while IFS= read -r line; do
    key=${line%%=*} value=${line#*=} value=${value#\'} value=${value%\'}
    case ${key##*.} in index-url) index=(--default-index "$value") ;; esac
  done < <(.venv/bin/python -m pip config list)
  exec .venv/bin/uv pip compile requirements/llamacpp.in --python-version 3.11 \
    --python-platform x86_64-manylinux_2_31 --only-binary :all: --no-binary llama-cpp-python --generate-hashes \
    --no-annotate --custom-compile-command 'scripts/llamacpp.sh lock' --quiet ${index[@]+"${index[@]}"} \
    ${UPGRADE:+--upgrade} --output-file "$lock"
fi
[ $# = 0 ] || die "scripts/llamacpp.sh takes nothing or 'lock', not '$1'."

wanted=$(sha256sum "$lock" | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi
command -v c++ >/dev/null || die 'llama.cpp is compiled from source and there is no C++ compiler: apt-get install g++'

mkdir -p .gatehouse/logs
echo "Compiling llama.cpp into $venv (5 to 15 minutes); log in $log"
rm -rf "$venv"
.venv/bin/python -m venv "$venv"
CMAKE_BUILD_PARALLEL_LEVEL=${GATEHOUSE_LLAMACPP_JOBS:-2} "$venv/bin/python" -m pip --disable-pip-version-check \
  --no-input install --no-deps --require-hashes --only-binary :all: --no-binary llama-cpp-python -r "$lock" \
  >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "llama.cpp could not be built. The whole log: $log"; }
"$venv/bin/python" -c 'import gguf, llama_cpp.server' || die "llama.cpp was built and cannot be imported. Log: $log"
printf '%s\n' "$wanted" >"$stamp"
