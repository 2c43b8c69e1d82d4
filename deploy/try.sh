#!/usr/bin/env bash
# Has every gcloud command line of deploy.sh parsed by the real gcloud, which needs no account for that.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v gcloud >/dev/null || { echo "no gcloud: install the Google Cloud CLI" >&2; exit 1; }
export MODE=try PROJECT=sluice-try-1 REGION=us-west2 CONSOLE_USERS="group:data@example.com" OTLP=http://localhost:4318
export TARGETS=deploy/pipelines/nba/targets.env.example
for service in dispatcher completion-tracker phase-gate console; do
  deploy/deploy.sh service "$service"
  deploy/deploy.sh rollback "$service"
done
deploy/deploy.sh pipelines
# What is wrong must be noticed, or all of this shows nothing.
flags=$(mktemp)
cp deploy/console/flags "$flags"
trap 'cp "$flags" deploy/console/flags; rm -f "$flags"' EXIT
echo "--no-such-flag=1" >>deploy/console/flags
if deploy/deploy.sh service console >/dev/null 2>&1; then
  echo "a wrong flag was not noticed" >&2
  exit 1
fi
echo "a wrong flag is noticed"
