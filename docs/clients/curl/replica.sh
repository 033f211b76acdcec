#!/usr/bin/env bash
# Registers a service that runs already, over REST, for as long as this runs, and takes it out without a lost request.
#
#     CONTROL_PLANE=localhost:7400 SERVICE=orders ADDRESS=127.0.0.1:9000 ./replica.sh
#
# For a program that is to be started, restarted and looked after, too, there is `gwctl run`.
set -euo pipefail
replicas=http://${CONTROL_PLANE:-localhost:7400}/v1/services/${SERVICE:-orders}/replicas
address=${ADDRESS:-127.0.0.1:9000}
replica=curl-${address##*:}

# ask METHOD PATH [CURL'S ARGUMENTS]: with a body, it is JSON. With TLS: https, and --cacert FILE.
ask() {
    local method=$1 path=$2
    shift 2
    curl --silent --show-error --fail-with-body --max-time 30 -X "$method" "$replicas$path" \
        -H 'content-type: application/json' "$@"
}

# A control plane that is away is waited for, with jitter: many replicas must not come back together.
register() {
    until answer=$(ask POST '' -d "{\"replicaId\": \"$replica\", \"endpoint\": {\"address\": \"$address\"},
        \"initialHealth\": \"STARTING\", \"leaseTtl\": \"15s\"}"); do
        printf 'not registered yet: %s\n' "$answer" >&2
        sleep "0.$((RANDOM % 9 + 1))"
    done
    lease=$(sed 's/.*"leaseId":"\([^"]*\)".*/\1/' <<<"$answer")
    ask POST "/$replica:reportHealth" -H "x-gw-lease: $lease" -d '{"health": "HEALTHY", "reason": "it listens"}' >/dev/null
    printf '%s registered at %s\n' "$replica" "$address"
}

leave() {
    trap - TERM INT
    # Waits until no data plane sends anything more.
    ask POST "/$replica:drain" -H "x-gw-lease: $lease" \
        -d '{"allowLast": true, "reason": "it ends", "drainTimeout": "20s", "waitTimeout": "20s"}' >/dev/null
    ask DELETE "/$replica" -H "x-gw-lease: $lease" >/dev/null
    exit 0
}

register
trap leave TERM INT
while true; do
    # A signal does not end sleep, but it ends wait.
    sleep 5 &
    wait $!
    answer=$(ask PUT "/$replica/lease" -H "x-gw-lease: $lease") && continue
    case $answer in
    *LEASE_MISMATCH*)
        printf "another process has taken this replica's place\n" >&2
        exit 1
        ;;
    *LEASE_EXPIRED* | *REPLICA_REMOVED* | *REPLICA_NOT_FOUND*) register ;;
    esac
done
