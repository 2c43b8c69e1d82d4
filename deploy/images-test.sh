#!/usr/bin/env bash
# Builds the image of every service twice, pushes it to a registry on 127.0.0.1, and looks at what came of it: the same
# digest twice, a user that is not root, an SBOM, no shell; then takes the program out of the image and asks its health.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.bin
deploy/tools.sh "$bin"
dir=$(mktemp -d)
free() { while port=$((20000 + RANDOM)); (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done; echo "$port"; }
fail() { echo "images: $*" >&2; exit 1; }
trap 'kill -9 $(jobs -p) 2>/dev/null || true; rm -rf "$dir"' EXIT
registry=127.0.0.1:$(free)
"$bin/crane" registry serve --address "$registry" >"$dir/registry.log" 2>&1 &
for _ in $(seq 100); do "$bin/crane" catalog --insecure "$registry" >/dev/null 2>&1 && break; sleep 0.1; done

# A base of nothing but certificates, as the real one cannot be fetched everywhere.
mkdir -p "$dir/base/etc/ssl/certs"
cp /etc/ssl/certs/ca-certificates.crt "$dir/base/etc/ssl/certs/"
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$dir/base" -cf "$dir/base.tar" .
"$bin/crane" append --insecure --oci-empty-base -f "$dir/base.tar" -t "$registry/base:latest" >/dev/null
"$bin/crane" mutate --insecure --user 65532:65532 --set-platform linux/amd64 -t "$registry/base:latest" "$registry/base:latest" >/dev/null
export BASE=$registry/base:latest

mkdir "$dir/pipelines"
sed -e 's/auth: oidc/auth: none/; s#"${[A-Z]*_URL}#"http://127.0.0.1:1#' deploy/pipelines/nba/pipeline.yaml >"$dir/pipelines/nba.yaml"
for service in dispatcher completion-tracker phase-gate console; do
  image=$(deploy/image.sh "$service" "$registry/$service" 2>"$dir/ko.log") || { cat "$dir/ko.log" >&2; fail "$service cannot be built"; }
  again=$(deploy/image.sh "$service" "$registry/again-$service" 2>"$dir/ko.log")
  [ "${image#*@}" = "${again#*@}" ] || fail "$service is not reproducible: $image and $again"
  config=$("$bin/crane" config --insecure "$image")
  grep -q '"User":"65532:65532"' <<<"$config" || fail "$service runs as root: $config"
  "$bin/crane" ls --insecure "$registry/$service" | grep -q '\.sbom$' || fail "$service has no SBOM"
  mkdir "$dir/$service"
  "$bin/crane" export --insecure "$image" - | tar -xC "$dir/$service"
  [ ! -e "$dir/$service/bin/sh" ] || fail "$service has a shell"
  port=$(free)
  env -i PATH=/nowhere SLUICE_HOST=127.0.0.1 PORT="$port" SLUICE_PROJECT_ID=p SLUICE_PIPELINES="$dir/pipelines" \
    PUBSUB_EMULATOR_HOST=127.0.0.1:1 FIRESTORE_EMULATOR_HOST=127.0.0.1:1 BIGQUERY_EMULATOR_HOST=http://127.0.0.1:1 \
    "$dir/$service/ko-app/$service" 2>"$dir/log" &
  pid=$!
  for _ in $(seq 50); do
    code=$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/healthz" || true)
    [ "$code" = 204 ] && break
    sleep 0.1
  done
  [ "$code" = 204 ] || { cat "$dir/log" >&2; fail "$service from its image does not answer its health check ($code)"; }
  kill "$pid"
  code=0
  wait "$pid" || code=$?
  [ "$code" = 0 ] || { cat "$dir/log" >&2; fail "$service ended with $code after SIGTERM"; }
  echo "$service: ${image#*@}, $(stat -c %s "$dir/$service/ko-app/$service" | numfmt --to=iec) program, healthy"
done
