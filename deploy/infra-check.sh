#!/usr/bin/env bash
# Checks infra/ as far as that goes without the provider, which cannot be fetched everywhere: formatting, the packed
# schema of the provider where it is there, and the alert rules on made-up series.
set -euo pipefail
cd "$(dirname "$0")/.."
need() { # program what-to-do
  command -v "$1" >/dev/null && return
  echo "$1 is missing, so $3 is NOT CHECKED: $2" >&2
  [ "${CI:-}" = true ] && exit 1
  return 1
}
if need terraform "install Terraform 1.9 or newer" "the formatting of infra/"; then
  terraform fmt -check -diff -recursive infra >&2
  echo "infra: formatted"
fi
if [ -d ../shared/tools/tfcheck ]; then
  infra=$PWD/infra
  (cd ../shared/tools/tfcheck && GOWORK=off go run . "$infra")
else
  echo "../shared/tools/tfcheck is not there, so infra/ is NOT CHECKED against the provider's schema: run terraform init and terraform validate"
fi
if need promtool "install Debian's package prometheus" "the alerts"; then
  (cd infra && promtool check rules alerts.yaml && promtool test rules alerts_test.yaml)
fi
