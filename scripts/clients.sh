#!/usr/bin/env bash
# Makes .cache/clients hold the real clients that tests/conformance drives, at the versions of its locks.
#
#   scripts/clients.sh          installs what is missing or has changed; says which client it has to leave out, and why
#   scripts/clients.sh lock     recompiles tests/conformance/clients/*.lock and package-lock.json
#
# GATEHOUSE_CLIENTS names another folder. Node 18 or newer with npm is needed for half of the clients (20 for Continue;
# Debian: apt-get install nodejs npm), and 2 GB of disk for all. Of the packages' install scripts only the two are run that put a binary where it belongs.
set -euo pipefail
cd -P "$(dirname "$0")/.."

wanted=tests/conformance/clients
cache=${GATEHOUSE_CLIENTS:-.cache/clients}
venvs=(aider sdks openai)

die() { printf 'gatehouse: %s\n' "$*" >&2; exit 1; }
left_out() { printf 'left out: %-34s %s\n' "$1" "$2"; }
[ -x .venv/bin/python ] || die "no .venv. Run 'make setup' first."

if [ "${1:-}" = lock ]; then
  # uv does not read pip's configuration: tell it what this machine's pip is told.
  index=()
  while IFS= read -r line; do
    key=${line%%=*} value=${line#*=} value=${value#\'} value=${value%\'}
    case ${key##*.} in index-url) index=(--default-index "$value") ;; esac
  done < <(.venv/bin/python -m pip config list)
  for name in "${venvs[@]}"; do
    .venv/bin/uv pip compile "$wanted/$name.in" --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
      --only-binary :all: --generate-hashes --no-annotate --custom-compile-command 'scripts/clients.sh lock' --quiet \
      ${index[@]+"${index[@]}"} ${UPGRADE:+--upgrade} --output-file "$wanted/$name.lock" >/dev/null
  done
  (cd "$wanted" && npm install --package-lock-only --ignore-scripts --no-audit --no-fund --loglevel=error)
  # Whoever installs decides where the files come from; the hashes decide which files they are.
  exec .venv/bin/python - "$wanted/package-lock.json" <<'PYTHON'
import json, pathlib, sys
path = pathlib.Path(sys.argv[1])
lock = json.loads(path.read_text())
for package in lock["packages"].values():
    package.pop("resolved", None)
    package.pop("funding", None)
path.write_text(json.dumps(lock, indent=2) + "\n")
PYTHON
fi
[ $# = 0 ] || die "scripts/clients.sh takes nothing or 'lock', not '$1'."

mkdir -p "$cache"
cache=$(cd -P "$cache" && pwd)
current() { [ -f "$cache/$1.stamp" ] && [ "$(cat "$cache/$1.stamp")" = "$2" ]; }

# --- command lines and libraries that run on Node -----------------------------------------------------------------
node_major() { node --version 2>/dev/null | sed -E 's/^v([0-9]+).*/\1/'; }
node_clients='Codex, Claude Code, opencode, Continue, openai and anthropic for Node'
digest=$(cat "$wanted/package.json" "$wanted/package-lock.json" | sha256sum | cut -d' ' -f1)
major=$(node_major || true)
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
  left_out "$node_clients" 'there is no node or no npm: apt-get install nodejs npm'
elif [ "${major:-0}" -lt 18 ]; then
  left_out "$node_clients" "node is $(node --version), and they need 18 or newer"
else
  if ! current node "$digest"; then
    echo "Installing $node_clients into $cache/node (1.2 GB)"
    mkdir -p "$cache/node"
    cp "$wanted/package.json" "$wanted/package-lock.json" "$cache/node/"
    # Not `npm ci`: it wants every optional package of every other system in the lock, and not every registry has them.
    if (
      cd "$cache/node" && npm install --ignore-scripts --no-audit --no-fund --loglevel=error &&
        (cd node_modules/@anthropic-ai/claude-code && node install.cjs) && (cd node_modules/opencode-ai && node postinstall.mjs)
    ) >"$cache/node.log" 2>&1; then
      printf '%s\n' "$digest" >"$cache/node.stamp"
    else
      tail -n 5 "$cache/node.log" >&2
      left_out "$node_clients" "the installation failed; the whole log: $cache/node.log"
    fi
  fi
  # A package that npm calls optional is left out without a word where it does not fit the machine.
  for each in codex claude opencode cn; do
    program=$cache/node/node_modules/.bin/$each
    if [ -x "$program" ] && ! timeout 60 "$program" --version </dev/null >/dev/null 2>"$cache/$each.log"; then
      left_out "$each" "it does not start: $(head -c 200 "$cache/$each.log" | head -n 1)"
    fi
  done
fi

# --- command lines and libraries that run on Python ---------------------------------------------------------------
for name in "${venvs[@]}"; do
  digest=$(sha256sum "$wanted/$name.lock" | cut -d' ' -f1)
  if current "$name" "$digest"; then continue; fi
  echo "Installing $(tr '\n' ' ' <"$wanted/$name.in")into $cache/$name"
  rm -rf "${cache:?}/$name"
  .venv/bin/python -m venv "$cache/$name"
  if "$cache/$name/bin/python" -m pip --disable-pip-version-check --no-input install --no-deps --require-hashes \
    --only-binary :all: -r "$wanted/$name.lock" >"$cache/$name.log" 2>&1; then
    printf '%s\n' "$digest" >"$cache/$name.stamp"
  else
    tail -n 5 "$cache/$name.log" >&2
    left_out "$name" "pip failed; the whole log: $cache/$name.log"
  fi
done
echo "clients: $cache"
