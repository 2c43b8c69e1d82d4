#!/usr/bin/env bash
# Runs every command of the README's tutorial, in order, in one shell, on a free port and a temporary
# directory. It fails when a command fails.
set -euo pipefail
cd "$(dirname "$0")/.."
export TMPDIR
TMPDIR=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$TMPDIR"' EXIT
while PORT=$((20000 + RANDOM)); (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; do :; done
export PORT SLUICE_SERVER=http://127.0.0.1:$PORT
awk '/^## Five minutes/ {in_section = 1; next} /^## / {in_section = 0}
  in_section && /^```sh$/ {in_code = 1; next} /^```$/ {in_code = 0} in_code' README.md >"$TMPDIR/tutorial"
[ "$(grep -c '^sluice ' "$TMPDIR/tutorial")" -ge 12 ] || { echo "the README has no tutorial any more" >&2; exit 1; }
echo "running the README's tutorial:"
cat "$TMPDIR/tutorial"
echo
set -m # so that the tutorial's job control works
# shellcheck disable=SC1091
source "$TMPDIR/tutorial"
