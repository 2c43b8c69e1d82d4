#!/usr/bin/env bash
# Builds the image of a service with ko, pushes it, and prints its name with its digest: a static program on a base
# without a shell, as a user that is not root, with an SBOM; the same sources make the same digest.
#   image.sh SERVICE REPOSITORY
set -euo pipefail
cd "$(dirname "$0")/.."
service=${1:?image: SERVICE is missing} repo=${2:?image: REPOSITORY is missing}
bin=$PWD/.bin
[ -x "$bin/ko" ] || deploy/tools.sh "$bin" >&2
[ -n "${BASE:-}" ] && export KO_DEFAULTBASEIMAGE=$BASE
cd "services/$service"
KO_CONFIG_PATH=$OLDPWD/deploy KO_DOCKER_REPO=$repo SOURCE_DATE_EPOCH=0 GOWORK=off GOFLAGS=-buildvcs=false \
  "$bin/ko" build --bare --sbom=spdx --platform=linux/amd64 --tags="${TAG:-latest}" .
