#!/bin/sh
# Makes the package gateway/v1 from the contract. Needs protoc; its plugins are the tools of go.mod.
set -eu
cd "$(dirname "$0")"
"${PROTOC:-protoc}" -I ../../../proto --go_out=. --go-grpc_out=. \
    --plugin=protoc-gen-go="$(go tool -n protoc-gen-go)" \
    --plugin=protoc-gen-go-grpc="$(go tool -n protoc-gen-go-grpc)" \
    ../../../proto/gateway/v1/*.proto
