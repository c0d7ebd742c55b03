#!/bin/sh
# Checks this bundle with the machine's own tools, then installs it: sh install.sh KEY TARGET
#
#   KEY      the public key of whoever made the bundle, in PEM; it must have come another way than the bundle
#   TARGET   the folder to install into; made if it is not there
#
# Needs: openssl 3, sha256sum, Python 3.11 with venv (PYTHON names another one). Whoever does not trust this script runs
# the first two commands below by hand before it. Nothing is installed outside TARGET.
set -eu
[ $# -eq 2 ] || { echo 'gatehouse: sh install.sh KEY TARGET' >&2; exit 2; }
machine=$(uname -sm)
[ "$machine" = 'Linux x86_64' ] || { echo "gatehouse: the bundle is for Linux x86_64, and this is $machine" >&2; exit 1; }
key=$(realpath "$1") target=$(realpath -m "$2")
cd -P "$(dirname "$0")"
openssl pkeyutl -verify -pubin -inkey "$key" -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig
sha256sum --check --strict --quiet SHA256SUMS
# What is not on the list was not checked, and Python would take a venv.py or pip.py from the folder that it works in.
export PYTHONSAFEPATH=1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM
"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip --isolated --disable-pip-version-check install --quiet --no-index --no-cache-dir --no-deps \
  --require-hashes --only-binary :all: --find-links wheels --requirement requirements/installer.txt
"$work/venv/bin/python" -m serve_app.bundle install . --key "$key" --into "$target"
