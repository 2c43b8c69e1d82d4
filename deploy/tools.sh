#!/usr/bin/env bash
# Installs the tools that the Makefile needs, at pinned versions, into a folder.
set -euo pipefail
bin=$1
mkdir -p "$bin"
install() { # program module version
  local stamp=$bin/.$1-$3
  [ -x "$bin/$1" ] && [ -e "$stamp" ] && return
  echo "installing $1 $3"
  GOWORK=off GOBIN=$bin go install "$2@$3"
  touch "$stamp"
}
install buf github.com/bufbuild/buf/cmd/buf v1.75.0
install protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go v1.36.12
install protoc-gen-connect-go connectrpc.com/connect/cmd/protoc-gen-connect-go v1.21.1
install golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint v2.15.0
install ko github.com/google/ko v0.18.1
install crane github.com/google/go-containerregistry/cmd/crane v0.20.6
