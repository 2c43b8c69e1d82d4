#!/usr/bin/env bash
# Deploys one service with gcloud, takes it back, or deploys the pipelines:
#   deploy.sh service SERVICE    builds the image, deploys it without traffic, looks whether it is well, and promotes it
#   deploy.sh rollback SERVICE   gives the traffic back to the revision before
#   deploy.sh pipelines [DIR]    checks pipeline files and copies them to the bucket
# PROJECT and REGION say where. IMAGE deploys an image that is there instead of building one, BASE builds on another
# base image than ko's, OTLP is where telemetry goes, and MODE=try has every gcloud command line parsed and not run.
set -euo pipefail
cd "$(dirname "$0")/.."
services=(dispatcher completion-tracker phase-gate console)
die() { echo "deploy: $*" >&2; exit 1; }
usage() { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 1; }
command=${1:-}
[ -n "$command" ] || usage
: "${PROJECT:?deploy: PROJECT is missing: name the Google Cloud project}" "${REGION:?deploy: REGION is missing, e.g. us-west2}"
mode=${MODE:-run}

# gc runs gcloud. In mode try it is given no account, so that a command line that is right fails for lack of
# credentials, and one that is wrong fails in its parser, with exit code 2.
gc() {
  if [ "$mode" != try ]; then
    gcloud --project="$PROJECT" --quiet "$@"
    return
  fi
  local out code=0
  out=$(CLOUDSDK_CONFIG=$nobody CLOUDSDK_CORE_DISABLE_PROMPTS=1 gcloud --project="$PROJECT" --quiet "$@" 2>&1) || code=$?
  if [ "$code" = 1 ] && grep -qiE 'active account|credentials' <<<"$out"; then
    echo "parsed: gcloud $*" >&2
    echo >>"$nobody.count"
    return 0
  fi
  echo "gcloud $* ended with $code: $out" >&2
  exit 1
}
if [ "$mode" = try ]; then
  nobody=$(mktemp -d)
  trap 'rm -rf "$nobody" "$nobody.count"' EXIT
fi

known() { for s in "${services[@]}"; do [ "$s" = "$1" ] && return; done; die "unknown service '$1': use one of ${services[*]}"; }

# build makes and pushes the image of a service and prints its name with its digest.
build() {
  local repo=$REGION-docker.pkg.dev/$PROJECT/sluice/$1
  if [ "$mode" = try ]; then echo "$repo@sha256:$(printf '%064d' 0)"; return; fi
  deploy/image.sh "$1" "$repo"
}

environment() {
  local service=$1 env="SLUICE_PROJECT_ID=$PROJECT,SLUICE_PIPELINES=gs://$PROJECT-sluice-pipelines,SLUICE_FIRESTORE_DATABASE=sluice"
  case $service in
    dispatcher | console) env+=",SLUICE_BIGQUERY_REGION=${BIGQUERY_REGION:-$REGION}" ;;
    completion-tracker | phase-gate) env+=",SLUICE_RECEIVE=push,SLUICE_PUSH_AUDIENCE=https://$service-$number.$REGION.run.app,SLUICE_PUSH_SERVICE_ACCOUNT=sluice-push@$PROJECT.iam.gserviceaccount.com" ;;
  esac
  [ -n "${OTLP:-}" ] && env+=",OTEL_EXPORTER_OTLP_ENDPOINT=$OTLP"
  # Targets of pipelines (SCRAPER_URL and the like), one NAME=value a line.
  [ -f "${TARGETS:-deploy/targets.env}" ] && env+=",$(grep -vE '^(#|$)' "${TARGETS:-deploy/targets.env}" | paste -sd, -)"
  echo "$env"
}

invokers() {
  case $1 in
    completion-tracker | phase-gate) echo "serviceAccount:sluice-push@$PROJECT.iam.gserviceaccount.com" ;;
    console)
      echo "serviceAccount:sluice-tick@$PROJECT.iam.gserviceaccount.com"
      for member in ${CONSOLE_USERS:-}; do echo "$member"; done
      ;;
  esac
}

deploy() {
  local service=$1 image candidate=()
  known "$service"
  number=$(gc projects describe "$PROJECT" --format='value(projectNumber)')
  [ "$mode" = try ] && number=123456789012
  image=${IMAGE:-$(build "$service")}
  mapfile -t flags < <(grep -- '^--' "deploy/$service/flags")
  if [ "$mode" = try ] || gc run services describe "$service" --region="$REGION" >/dev/null 2>&1; then
    candidate=(--no-traffic --tag=candidate)
  fi
  gc run deploy "$service" --region="$REGION" --image="$image" --service-account="sluice-$service@$PROJECT.iam.gserviceaccount.com" \
    --no-allow-unauthenticated --set-env-vars="$(environment "$service")" --labels=app=sluice --cpu-boost \
    --startup-probe=httpGet.path=/healthz,periodSeconds=2,failureThreshold=30,timeoutSeconds=1 \
    --liveness-probe=httpGet.path=/healthz,periodSeconds=30,failureThreshold=3,timeoutSeconds=5 \
    "${flags[@]}" "${candidate[@]}"
  while read -r member; do
    [ -n "$member" ] && gc run services add-iam-policy-binding "$service" --region="$REGION" --member="$member" --role=roles/run.invoker >/dev/null
  done < <(invokers "$service")
  smoke "$service"
  if [ ${#candidate[@]} -gt 0 ]; then
    gc run services update-traffic "$service" --region="$REGION" --to-tags=candidate=100
    gc run services update-traffic "$service" --region="$REGION" --remove-tags=candidate
  fi
  echo "deployed $service: $image" >&2
}

# smoke looks at the newest revision: Cloud Run has asked its health before it calls it ready.
smoke() {
  local revision ready
  revision=$(gc run services describe "$1" --region="$REGION" --format='value(status.latestCreatedRevisionName)')
  [ "$mode" = try ] && revision=$1-00001-abc
  ready=$(gc run revisions describe "$revision" --region="$REGION" --format='value(status.conditions[0].status)') # Ready is the first one
  [ "$mode" = try ] && return
  [ "$ready" = True ] || die "revision $revision of $1 is not ready ($ready): the traffic stays where it was; see its log: gcloud run services logs read $1 --region=$REGION"
}

# rollback sends all traffic to the newest revision that is well and not the one that has it now.
rollback() {
  local service=$1 now before
  known "$service"
  now=$(gc run services describe "$service" --region="$REGION" --format='value(status.traffic[0].revisionName)')
  before=$(gc run revisions list --service="$service" --region="$REGION" --sort-by=~metadata.creationTimestamp --limit=20 \
    --filter='status.conditions[0].status=True' --format='value(metadata.name)' | grep -vx "${now:-none}" | head -n 1 || true)
  [ "$mode" = try ] && before=$service-00001-abc
  [ -n "$before" ] || die "$service has no other revision to go back to"
  gc run services update-traffic "$service" --region="$REGION" --to-revisions="$before=100"
  echo "the traffic of $service goes to $before" >&2
}

pipelines() {
  local dir=${1:-deploy/pipelines} file found=0
  [ -f "${TARGETS:-deploy/targets.env}" ] && { set -a; . "${TARGETS:-deploy/targets.env}"; set +a; }
  for file in "$dir"/*.yaml "$dir"/*/pipeline.yaml; do
    [ -f "$file" ] || continue
    found=1
    .build/sluice pipeline check "$file" >&2
  done
  [ "$found" = 1 ] || die "$dir holds no pipeline file"
  gc storage rsync "$dir" "gs://$PROJECT-sluice-pipelines" --recursive --delete-unmatched-destination-objects --exclude='.*\.schema\.json$'
  echo "services read pipelines when they start: deploy dispatcher, completion-tracker and console again, or restart them" >&2
}

case $command in
  service) deploy "${2:?deploy: SERVICE is missing: use one of ${services[*]}}" ;;
  rollback) rollback "${2:?deploy: SERVICE is missing: use one of ${services[*]}}" ;;
  pipelines) pipelines "${2:-}" ;;
  *) usage ;;
esac
if [ "$mode" = try ]; then echo "$command ${2:-}: $(wc -l <"$nobody.count") command lines parsed" >&2; fi
