#!/usr/bin/env bash
# Runs season 2023-24 of the NBA pipeline against the example platform, in one process, on a temporary
# directory, and says at the end what happened.
set -euo pipefail
sluice=${SLUICE:?path of the sluice program}
dir=$(mktemp -d)
"$sluice" local --demo --data "$dir/data" --listen 127.0.0.1:0 >"$dir/out" 2>"$dir/log" &
pid=$!
stop() { kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; rm -rf "$dir"; }
trap stop EXIT
for _ in $(seq 100); do
  url=$(sed -n 's/^sluice is ready at //p' "$dir/out")
  [ -n "$url" ] && break
  kill -0 "$pid" 2>/dev/null || { cat "$dir/log"; exit 1; }
  sleep 0.1
done
export SLUICE_SERVER=${url:?sluice local did not start}
echo '{"backfill_id":"nba-2023-24","pipeline":"nba","dates":{"seasons":["2023-24"]},"reason":"demo"}' >"$dir/request.json"
began=$(date +%s)
code=0
"$sluice" submit -f "$dir/request.json" --watch || code=$?
took=$(($(date +%s) - began))
echo
"$sluice" status nba-2023-24
failures=$("$sluice" failures nba-2023-24 | wc -l) || true
"$sluice" status nba-2023-24 -o json | tr -d ' \n' >"$dir/status.json"
number() { grep -o "\"$1\":[0-9]*" "$dir/status.json" | head -n 1 | cut -d: -f2; }
runs=$(grep -o '"succeeded":[0-9]*' "$dir/status.json" | cut -d: -f2 | awk '{n += $1} END {print n + 0}')
echo
echo "summary: $(number complete) dates, $runs runs succeeded, $(number retries) retries, $(number throttles) throttles, failures $failures, ${took} s"
echo "to look further: $sluice local --demo, then $sluice status, watch and failures in another terminal; the README has a tour"
exit "$code"
