#!/usr/bin/env bash
# Runs a command, the tests, with Google's Pub/Sub and Firestore emulators and a BigQuery emulator on free
# ports; with -build it only builds what starts them. Where one cannot be had it says which suites do not run, and how to get it; with CI=true that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
emulators=$PWD/.build/emulators
missing=()
command -v gcloud >/dev/null || missing+=("gcloud: install the Google Cloud CLI with its components beta, pubsub-emulator and cloud-firestore-emulator")
command -v java >/dev/null || missing+=("java: install a Java 17 runtime, which Google's emulators need")
if [ ${#missing[@]} -gt 0 ]; then
  echo "the suites of gcpbus, firestorestate and bqwarehouse DO NOT RUN; what they lack:" >&2
  printf '  %s\n' "${missing[@]}" >&2
  [ "${CI:-}" = true ] && exit 1
  [ "${1:-}" = -build ] && exit 1
  exec "$@"
fi
if [ -n "$(find deploy/emulators -newer "$emulators" -type f 2>/dev/null || echo new)" ]; then
  echo "building the emulators' starter; the first time this takes about 5 minutes"
  (cd deploy/emulators && GOWORK=off CGO_ENABLED=0 go build -o "$emulators" .)
  touch "$emulators"
fi
[ "${1:-}" = -build ] && exit 0
exec "$emulators" -quiet -- "$@"
