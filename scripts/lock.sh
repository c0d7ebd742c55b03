#!/usr/bin/env bash
# Compiles requirements/{cpu,dev,gpu}.lock from pyproject.toml, and nixl.lock from nixl.in. `make lock` keeps the pins that still fit;
# `make lock UPGRADE=1` moves everything to the newest version that fits.
#
# The locks are for CPython 3.11 on Linux x86_64 with glibc >= 2.31, wheels only, and name no index: whoever installs
# decides where the files come from, the hashes decide which files they are.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=.venv/bin/uv
[ -x "$uv" ] || { echo "gatehouse: no $uv. Run 'make setup' first." >&2; exit 1; }

# uv does not read pip's configuration: tell it what this machine's pip is told. Only the command line learns it.
index=() links=()
while IFS= read -r line; do
  key=${line%%=*} value=${line#*=} value=${value#\'} value=${value%\'}
  case ${key##*.} in
    index-url) index=(--default-index "$value") ;;
    find-links) for item in $value; do links+=(--find-links "$item"); done ;;
  esac
done < <(.venv/bin/python -m pip config list)

compile() { # name of the lock, then what to compile
  local name=$1
  shift
  printf 'locking requirements/%s.lock\n' "$name"
  "$uv" pip compile ${source:-pyproject.toml} --python-version 3.11 --python-platform x86_64-manylinux_2_31 --only-binary :all: \
    --generate-hashes --custom-compile-command "make lock" --quiet ${index[@]+"${index[@]}"} "$@" \
    --output-file "requirements/$name.lock" >/dev/null
}
upgrade=(${UPGRADE:+--upgrade})

# cpu: torch's local version (+cpu) is pinned in torch-cpu.lock; here it is only resolved. torchvision, torchaudio and
# torchcodec would come as CUDA builds, which break the import of transformers' models; text models do without, and
# since locks are installed with --no-deps, leaving them out is enough.
[ ${#links[@]} -gt 0 ] || links=(--find-links "https://download.pytorch.org/whl/cpu/torch/")
compile cpu --extra serve --extra cpu --extra build "${links[@]}" ${upgrade[@]+"${upgrade[@]}"} \
  --no-emit-package torch --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec

# dev: at the versions of the CPU lock, so that both fit into one environment.
compile dev --extra serve --extra build --extra dev --extra bench --extra ray-llm --constraint requirements/cpu.lock ${upgrade[@]+"${upgrade[@]}"}

# nixl: for tests of prefill engines without a GPU. One of its two builds is enough there, and nothing that it asks for
# beside what is there already: a CUDA build of torch would come with it.
source=requirements/nixl.in compile nixl --no-deps ${upgrade[@]+"${upgrade[@]}"}

# gpu: uv prefers the pins of the file it overwrites, so starting from the CPU lock makes the two agree where they can.
# Not offered the links: torch 2.13.0+cpu would satisfy torch==2.13.0.
[ -s requirements/gpu.lock ] && [ -z "${UPGRADE:-}" ] || cp requirements/cpu.lock requirements/gpu.lock
compile gpu --extra serve --extra gpu --extra ray-llm --extra pd --extra s3 --extra postgres --extra build
