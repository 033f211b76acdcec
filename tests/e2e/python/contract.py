"""Drives every RPC of a control plane, and every refusal that a client can bring about, knowing nothing but reflection.

    contract.py ADDRESS REPLICA_ADDRESS

REPLICA_ADDRESS answers HTTP. A data plane must be connected. Prints {"called": [RPCs that answered], "reasons": [reasons of
errors met]}; ends with a traceback at the first answer that is not as it should be.
"""

import json
import queue
import sys
import time
import uuid

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2  # noqa: F401 - lets Any details be decoded
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

TIMEOUT = 20
REGISTRY = "gateway.v1.RegistryService/"
POLICY = "gateway.v1.PolicyService/"
ROUTE = "gateway.v1.RouteService/"
OBSERVABILITY = "gateway.v1.ObservabilityService/"
DISCOVERY = "gateway.v1.DiscoveryService/"
STORE = "gateway.v1.StoreService/"


class Refused(Exception):
    """A call that ended with an error, and what it said."""

    def __init__(self, error):
        self.code = error.code().name
        self.message = error.details()
        status = rpc_status.from_call(error)
        details = [json_format.MessageToDict(detail) for detail in status.details] if status else []
        kinds = {detail["@type"].rsplit(".", 1)[-1]: detail for detail in details}
        info = kinds.get("ErrorInfo", {})
        assert info.get("domain") == "gateway.v1", f"{self.code} {self.message} without ErrorInfo: {details}"
        self.reason = info["reason"]
        self.fields = [v["field"] for v in kinds.get("BadRequest", {}).get("fieldViolations", [])]
        super().__init__(f"{self.code} {self.reason} {self.fields}: {self.message}")


class Stream:
    """A call with a stream of answers, and of requests if it takes them."""

    def __init__(self, client, method, request):
        self.requests = queue.Queue()
        self.make, make_stub = client.stub(method)
        self.method, self.client = method, client
        if client.is_client_streaming(method):
            self.call = make_stub(iter(self.requests.get, None), timeout=TIMEOUT)
            self.send(request)
        else:
            self.call = make_stub(self.make(request), timeout=TIMEOUT)

    def send(self, request):
        self.requests.put(self.make(request))

    def next(self):
        try:
            answer = json_format.MessageToDict(next(self.call))
        except grpc.RpcError as error:
            raise self.client.refused(error) from None
        self.client.called.add(self.method)
        return answer

    def until(self, wanted):
        while True:
            answer = self.next()
            if wanted(answer):
                return answer

    def end(self):
        self.requests.put(None)
        self.call.cancel()


class Client:
    def __init__(self, channel):
        database = ProtoReflectionDescriptorDatabase(channel)
        self.channel, self.pool = channel, descriptor_pool.DescriptorPool(database)
        self.called, self.reasons = set(), set()

    def descriptor(self, method):
        service, name = method.split("/")
        return self.pool.FindServiceByName(service).FindMethodByName(name)

    def is_client_streaming(self, method):
        return self.descriptor(method).client_streaming

    def stub(self, method):
        descriptor = self.descriptor(method)
        kind = ("stream" if descriptor.client_streaming else "unary") + "_"
        kind += "stream" if descriptor.server_streaming else "unary"
        stub = getattr(self.channel, kind)(
            f"/{method}",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(descriptor.output_type).FromString,
        )
        message = message_factory.GetMessageClass(descriptor.input_type)
        return (lambda request: json_format.ParseDict(request, message())), stub

    def refused(self, error):
        refused = Refused(error)
        self.reasons.add(refused.reason)
        return refused

    def call(self, method, /, **request):
        make, stub = self.stub(method)
        try:
            answer = json_format.MessageToDict(stub(make(request), timeout=TIMEOUT))
        except grpc.RpcError as error:
            raise self.refused(error) from None
        self.called.add(method)
        return answer

    def refuse(self, code, reason, method, field=None, /, **request):
        """Makes a call that must be refused just so."""
        try:
            answer = self.call(method, **request)
        except Refused as refused:
            assert (refused.code, refused.reason) == (code, reason), f"{method} {request}: {refused}"
            assert field is None or field in refused.fields, f"{method} {request}: {field} not in {refused.fields}"
            return refused
        raise AssertionError(f"{method} {request} was answered: {answer}")

    def stream(self, method, request):
        return Stream(self, method, request)


def eventually(what, ask):
    for _ in range(400):
        answer = ask()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"never: {what}")


def registrations(client, address):
    wish = {
        "service": "orders",
        "replicaId": "r-1",
        "endpoint": {"address": address},
        "weight": 200,
        "priority": 1,
        "locality": {"region": "eu", "zone": "eu-1"},
        "version": "1.0",
        "labels": {"team": "shop"},
        "leaseTtl": "30s",
        "requestId": str(uuid.uuid4()),
        "waitTimeout": "10s",
    }
    rehearsed = client.call(REGISTRY + "Register", **{**wish, "validateOnly": True})
    assert "leaseId" not in rehearsed and rehearsed["created"], rehearsed
    first = client.call(REGISTRY + "Register", **wish)
    assert first["created"] and first["heartbeatInterval"] == "10s", first
    assert first["rollout"]["nodeCount"] == first["rollout"]["ackedNodeCount"] == 1, first
    replica = first["replica"]
    assert replica["priority"] == 1 and replica["locality"]["zone"] == "eu-1", replica
    again = client.call(REGISTRY + "Register", **wish)
    assert again["leaseId"] == first["leaseId"] and again["created"], again
    client.refuse("INVALID_ARGUMENT", "REQUEST_ID_REUSED", REGISTRY + "Register", "request_id", **{**wish, "weight": 7})
    client.refuse(
        "INVALID_ARGUMENT", "INVALID_FIELD", REGISTRY + "Register", "service", service="Orders", weight=-1, priority=16
    )
    client.refuse(
        "ALREADY_EXISTS", "ADDRESS_IN_USE", REGISTRY + "Register", service="orders", replicaId="r-2", endpoint={"address": address}
    )
    tls = {"address": ":9", "protocol": "ENDPOINT_PROTOCOL_TLS", "tlsServerName": "Ports.Example"}
    mine = client.call(REGISTRY + "Register", service="ports", endpoint=tls, permanent=True)
    assert mine["replica"]["endpoint"] == {**tls, "address": "127.0.0.1:9", "tlsServerName": "ports.example"}, mine
    plain = {"address": "127.0.0.1:9", "tlsServerName": "ports.example"}
    client.refuse("INVALID_ARGUMENT", "INVALID_FIELD", REGISTRY + "Register", "endpoint.tls_server_name", service="ports", endpoint=plain)
    metadata = {"address": "169.254.169.254:80"}
    client.refuse("PERMISSION_DENIED", "ADDRESS_NOT_ALLOWED", REGISTRY + "Register", service="ports", endpoint=metadata, permanent=True)
    owned = {"service": "orders", "replicaId": "r-1", "leaseId": first["leaseId"]}
    return owned


def leases(client, owned, address):
    beat = client.call(REGISTRY + "Heartbeat", **owned)
    assert "expireTime" in beat and beat["mode"] == "REPLICA_MODE_SERVING", beat
    client.refuse("INVALID_ARGUMENT", "INVALID_FIELD", REGISTRY + "Heartbeat", "lease_id", **{**owned, "leaseId": "7"})
    client.refuse("NOT_FOUND", "LEASE_EXPIRED", REGISTRY + "Heartbeat", **{**owned, "replicaId": "nobody"})
    client.refuse("FAILED_PRECONDITION", "LEASE_MISMATCH", REGISTRY + "Heartbeat", **{**owned, "leaseId": "0" * 32})
    stream = client.stream(REGISTRY + "KeepAlive", {"heartbeats": [owned, {**owned, "leaseId": "0" * 32}]})
    renewed, lost = stream.next()["results"]
    assert "renewed" in renewed and lost["lost"]["reason"] == "LEASE_MISMATCH", (renewed, lost)
    stream.end()

    health = {**owned, "health": "HEALTH_STATUS_DEGRADED", "reason": "disk"}
    reported = client.call(REGISTRY + "ReportHealth", **health)["replica"]
    assert (reported["health"], reported["stateReason"]) == ("HEALTH_STATUS_DEGRADED", "disk"), reported
    client.refuse(
        "INVALID_ARGUMENT", "INVALID_FIELD", REGISTRY + "ReportHealth", "health", **{**owned, "health": "HEALTH_STATUS_LOST"}
    )
    client.refuse("NOT_FOUND", "REPLICA_NOT_FOUND", REGISTRY + "ReportHealth", service="orders", replicaId="x", health=2)
    client.call(REGISTRY + "ReportHealth", **{**owned, "health": "HEALTH_STATUS_HEALTHY"})


def lists(client):
    services = client.call(REGISTRY + "ListServices", filter='service = "orders"', orderBy="service desc")
    assert [s["service"] for s in services["services"]] == ["orders"], services
    client.refuse("INVALID_ARGUMENT", "INVALID_FIELD", REGISTRY + "ListServices", "filter", filter="shoe_size > 3")
    client.refuse("INVALID_ARGUMENT", "INVALID_FIELD", REGISTRY + "ListServices", "order_by", orderBy="shoe_size")
    client.refuse("INVALID_ARGUMENT", "INVALID_FIELD", REGISTRY + "ListServices", "page_size", pageSize=-1)
    client.refuse("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", REGISTRY + "ListServices", pageToken="77")
    page = client.call(REGISTRY + "ListReplicas", service="-", pageSize=1)
    rest = client.call(REGISTRY + "ListReplicas", service="-", pageSize=1, pageToken=page["nextPageToken"])
    assert page["replicas"][0]["service"] == "orders" and rest["replicas"][0]["service"] == "ports", (page, rest)
    labelled = client.call(REGISTRY + "ListReplicas", service="-", filter='labels.team = "shop" AND weight > 100')
    assert [r["replicaId"] for r in labelled["replicas"]] == ["r-1"], labelled
    assert client.call(REGISTRY + "GetService", service="orders")["service"]["replicaCount"] == 1
    client.refuse("NOT_FOUND", "SERVICE_NOT_FOUND", REGISTRY + "GetService", service="nothing")
    client.refuse("NOT_FOUND", "SERVICE_NOT_FOUND", REGISTRY + "ListReplicas", service="nothing")
    got = client.call(REGISTRY + "GetReplica", service="orders", replicaId="r-1")["replica"]
    assert "leaseId" not in json.dumps(got), got
    client.refuse("NOT_FOUND", "REPLICA_NOT_FOUND", REGISTRY + "GetReplica", service="orders", replicaId="x")
    watch = client.stream(REGISTRY + "WatchReplicas", {"service": "orders"})
    assert watch.next()["changeType"] == "CHANGE_TYPE_RESET"
    assert watch.next()["replica"]["replicaId"] == "r-1"
    watch.end()
    return got


def drains(client, owned, address):
    named = {"service": "orders", "replicaId": "r-1"}
    client.refuse("FAILED_PRECONDITION", "LAST_READY_REPLICA", REGISTRY + "DrainReplica", **named)
    client.refuse("ABORTED", "ETAG_MISMATCH", REGISTRY + "DrainReplica", **named, etag="0", allowLast=True)
    client.refuse("NOT_FOUND", "REPLICA_NOT_FOUND", REGISTRY + "DrainReplica", service="orders", replicaId="x")
    client.refuse(
        "INVALID_ARGUMENT", "INVALID_FIELD", REGISTRY + "DrainReplica", "drain_timeout", **named, drainTimeout="7200s"
    )
    drained = client.call(
        REGISTRY + "DrainReplica", **named, allowLast=True, reason="kernel", author="ana", waitTimeout="15s"
    )
    assert drained["replica"]["mode"] == "REPLICA_MODE_DRAINED", drained
    assert drained["replica"]["drain"]["author"] == "ana" and drained["status"]["isIdle"], drained
    beat = client.call(REGISTRY + "Heartbeat", **owned)
    assert beat["mode"] == "REPLICA_MODE_DRAINED" and "drainDeadlineTime" in beat, beat
    watch = client.stream(REGISTRY + "WatchDrain", named)
    assert watch.until(lambda m: m["replica"]["mode"] == "REPLICA_MODE_DRAINED")["status"]["isIdle"]
    watch.end()
    back = client.call(REGISTRY + "UndrainReplica", **named, author="ana")["replica"]
    assert back["mode"] == "REPLICA_MODE_SERVING", back
    client.refuse("NOT_FOUND", "REPLICA_NOT_FOUND", REGISTRY + "UndrainReplica", service="orders", replicaId="x")


def in_an_hour():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))


def policies(client):
    change = {"service": "orders", "breaker": {"failureRatio": 0.25}}
    client.refuse("NOT_FOUND", "POLICY_NOT_FOUND", POLICY + "UpdatePolicy", policy=change)
    client.refuse(
        "INVALID_ARGUMENT",
        "POLICY_INVALID",
        POLICY + "UpdatePolicy",
        "breaker.failure_ratio",
        policy={"service": "orders", "breaker": {"failureRatio": 50}},
        allowMissing=True,
    )
    client.refuse(
        "FAILED_PRECONDITION",
        "FAULT_INJECTION_NOT_ALLOWED",
        POLICY + "UpdatePolicy",
        policy={"service": "orders", "fault": {"abortRatio": 0.5, "endTime": in_an_hour()}},
        allowMissing=True,
    )
    stored = client.call(POLICY + "UpdatePolicy", policy=change, allowMissing=True, author="ana", waitTimeout="10s")
    assert stored["rollout"]["ackedNodeCount"] == 1, stored
    client.refuse("ABORTED", "ETAG_MISMATCH", POLICY + "UpdatePolicy", policy=change, etag="0")
    assert client.call(POLICY + "GetPolicy", service="orders")["policy"]["breaker"] == {"failureRatio": 0.25}
    resolved = client.call(POLICY + "ResolvePolicy", service="orders")
    assert resolved["origins"]["breaker.failure_ratio"] == "orders", resolved
    assert resolved["origins"]["timeout.request"] == "default", resolved
    assert len(client.call(POLICY + "ListPolicies")["policies"]) == 1
    stricter = {"policy": {"service": "orders", "breaker": {"failureRatio": 0.125}}}
    client.refuse(
        "NOT_FOUND", "POLICY_NOT_FOUND", POLICY + "ApplyPolicies", changes=[stricter, {"policy": {"service": "carts"}, "remove": True}]
    )
    assert client.call(POLICY + "GetPolicy", service="orders")["policy"]["breaker"] == {"failureRatio": 0.25}
    applied = client.call(POLICY + "ApplyPolicies", changes=[stricter], author="ana", waitTimeout="10s")
    assert [policy["breaker"] for policy in applied["policies"]] == [{"failureRatio": 0.125}], applied
    client.call(POLICY + "DeletePolicy", service="orders")
    client.refuse("NOT_FOUND", "POLICY_NOT_FOUND", POLICY + "GetPolicy", service="orders")


def routes(client):
    change = {"name": "shop", "service": "orders", "pathPrefix": "/api"}
    client.refuse("NOT_FOUND", "ROUTE_NOT_FOUND", ROUTE + "UpdateRoute", route=change)
    client.refuse(
        "INVALID_ARGUMENT", "ROUTE_INVALID", ROUTE + "UpdateRoute", "host", route={**change, "host": "a:80"}, allowMissing=True
    )
    stored = client.call(ROUTE + "UpdateRoute", route=change, allowMissing=True, author="ana", waitTimeout="10s")
    assert stored["rollout"]["ackedNodeCount"] == 1, stored
    other = {**change, "name": "other"}
    client.refuse("ALREADY_EXISTS", "ROUTE_CONFLICT", ROUTE + "UpdateRoute", route=other, allowMissing=True)
    assert client.call(ROUTE + "GetRoute", name="shop")["route"]["pathPrefix"] == "/api"
    assert [route["name"] for route in client.call(ROUTE + "ListRoutes")["routes"]] == ["shop"]
    client.call(ROUTE + "DeleteRoute", name="shop")
    client.refuse("NOT_FOUND", "ROUTE_NOT_FOUND", ROUTE + "GetRoute", name="shop")


def observation(client):
    rows = eventually(
        "the data plane reports", lambda: client.call(OBSERVABILITY + "ListBreakers", service="orders").get("breakers")
    )
    assert rows[0]["state"] == "BREAKER_STATE_CLOSED", rows
    watch = client.stream(OBSERVABILITY + "WatchBreakers", {"service": "orders"})
    assert watch.next()["changeType"] == "CHANGE_TYPE_ADDED"
    forced = {"service": "orders", "replicaId": "r-1", "state": "BREAKER_STATE_FORCED_OPEN"}
    client.refuse("INVALID_ARGUMENT", "INVALID_FIELD", OBSERVABILITY + "OverrideBreaker", "ttl", **forced, reason="x")
    override = client.call(
        OBSERVABILITY + "OverrideBreaker", **forced, ttl="60s", reason="test", author="ana", waitTimeout="10s"
    )
    assert override["rollout"]["ackedNodeCount"] == 1, override
    seen = watch.until(lambda m: m.get("breaker", {}).get("state") == "BREAKER_STATE_FORCED_OPEN")
    assert seen["breaker"]["activeOverride"]["author"] == "ana", seen
    watch.end()
    listed = client.call(OBSERVABILITY + "ListOverrides")["overrides"]
    assert [entry["reason"] for entry in listed] == ["test"], listed
    ended = client.call(OBSERVABILITY + "EndOverride", overrideId=listed[0]["overrideId"])
    assert ended["ended"], ended
    client.call(OBSERVABILITY + "ResetBreaker", service="orders", replicaId="-", waitTimeout="10s")
    client.refuse(
        "NOT_FOUND", "REPLICA_NOT_FOUND", OBSERVABILITY + "ResetBreaker", service="orders", replicaId="x"
    )
    told = client.call(OBSERVABILITY + "ExplainReplica", service="orders", replicaId="r-1")
    assert told["nodeCounts"]["total"] == 1 and told["summary"] and told["nextSteps"], told
    told = client.call(OBSERVABILITY + "ExplainService", service="orders")
    assert told["replicaCount"] >= 1 and told["summary"], told
    client.refuse("NOT_FOUND", "REPLICA_NOT_FOUND", OBSERVABILITY + "ExplainReplica", service="orders", replicaId="x")
    client.refuse(
        "INVALID_ARGUMENT", "INVALID_FIELD", OBSERVABILITY + "ExplainReplica", "node_id", service="orders",
        replicaId="r-1", nodeId="nobody"
    )
    client.refuse("NOT_FOUND", "SERVICE_NOT_FOUND", OBSERVABILITY + "ExplainService", service="nothing")
    told = client.call(OBSERVABILITY + "WhatIf", service="orders", breaker={"consecutiveFailureCount": 3})
    assert told["unrecordingNodeIds"] == ["dp-1"] and "--record-outcomes" in told["summary"], told
    client.refuse("INVALID_ARGUMENT", "INVALID_FIELD", OBSERVABILITY + "WhatIf", "breaker", service="orders")
    nodes = client.call(OBSERVABILITY + "ListNodes")["nodes"]
    assert [node["state"] for node in nodes] == ["NODE_STATE_SYNCED"], nodes
    released = client.call(REGISTRY + "ReleaseGuard", service="orders", ttl="1s", reason="test")
    assert "expireTime" in released, released
    client.refuse("NOT_FOUND", "SERVICE_NOT_FOUND", REGISTRY + "ReleaseGuard", service="nothing")
    events = client.call(OBSERVABILITY + "ListEvents", filter='actor = "ana" AND event_type = "OVERRIDE_SET"')["events"]
    assert len(events) == 1, events
    client.refuse("INVALID_ARGUMENT", "INVALID_FIELD", OBSERVABILITY + "ListEvents", "filter", filter="=")
    watch = client.stream(OBSERVABILITY + "WatchEvents", {"afterEventId": events[0]["eventId"]})
    assert any(event["eventType"] == "OVERRIDE_ENDED" for event in watch.next()["events"])
    watch.end()
    stats = client.stream(OBSERVABILITY + "WatchStats", {"perReplica": True})
    assert "endTime" in stats.next()
    stats.end()


def data_plane(client):
    hello = {"node": {"nodeId": "py-1", "version": "0"}, "services": ["*"]}
    stream = client.stream(DISCOVERY + "StreamSnapshots", {"hello": hello})
    full = stream.next()
    assert full["full"]["lastPart"] and full["full"]["defaultPolicy"], full
    ack = {"nonce": full["nonce"], "revision": full["revision"]}
    stream.send({"ack": {**ack, "nack": {"reason": "INVALID_RESOURCE", "message": "no"}}})
    nacked = eventually(
        "the refusal shows",
        lambda: [n for n in client.call(OBSERVABILITY + "ListNodes")["nodes"] if n["state"] == "NODE_STATE_NACKED"],
    )
    assert nacked[0]["nack"]["reason"] == "INVALID_RESOURCE", nacked
    again = stream.until(lambda m: "full" in m)
    stream.send({"ack": {"nonce": again["nonce"], "revision": again["revision"]}})
    newer = client.stream(DISCOVERY + "StreamSnapshots", {"hello": hello})
    newer.next()
    try:
        stream.until(lambda m: False)
    except Refused as refused:
        assert (refused.code, refused.reason) == ("ABORTED", "STREAM_SUPERSEDED"), refused
    newer.end()

    node = {"nodeId": "py-1", "version": "0"}
    row = {"service": "orders", "replicaId": "r-1", "state": "BREAKER_STATE_OPEN", "reason": "python says so"}
    report = client.stream(OBSERVABILITY + "ReportNodeStatus", {"node": node, "full": True, "breakers": [row]})
    assert "reportInterval" in report.next()
    rows = eventually(
        "the row shows",
        lambda: client.call(OBSERVABILITY + "ListBreakers", nodeId="py-1", perNode=True).get("breakers"),
    )
    assert rows[0]["reason"] == "python says so", rows
    peer = client.stream("gateway.v1.PeerService/FollowObservations", {"peer": {"address": "python:1"}})
    assert peer.next()["peer"]["processId"], "the control plane says who it is"
    peer.until(lambda m: "mark" in m)
    peer.end()
    report.send({"breakers": [{"service": "?"}]})
    try:
        report.until(lambda m: False)
    except Refused as refused:
        assert refused.reason == "INVALID_FIELD", refused


def moves(client):
    move = client.stream(STORE + "MoveStore", {"read": {}})
    content = move.next()["content"]
    assert content["complete"] and content["epoch"] and any("replica" in record for record in content["records"]), content
    other = client.stream(STORE + "MoveStore", {"read": {}})
    try:
        raise AssertionError(f"a second mover is let in: {other.next()}")
    except Refused as refused:
        assert (refused.code, refused.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), refused
    move.send({"close": {"to": "etcd://python:2379/gw"}})
    assert "closed" in move.next()
    refused = client.refuse("FAILED_PRECONDITION", "MOVE_REFUSED", STORE + "ReopenStore")
    assert "etcd://python:2379/gw" in refused.message, refused
    move.send({"end": {"revision": int(content["revision"]) + 1}})
    try:
        raise AssertionError(f"all has moved that was not read: {move.next()}")
    except Refused as refused:
        assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "MOVE_REFUSED"), refused

    def takes_changes():
        try:
            return client.call(STORE + "ReopenStore") == {}
        except Refused:
            return False

    eventually("the fence is gone with its mover", takes_changes)


def removals(client, owned, address):
    client.refuse(
        "INVALID_ARGUMENT", "INVALID_FIELD", REGISTRY + "Deregister", "lease_id", service="orders", replicaId="r-1"
    )
    client.refuse("FAILED_PRECONDITION", "LEASE_MISMATCH", REGISTRY + "Deregister", **{**owned, "leaseId": "0" * 32})
    named = {"service": "orders", "replicaId": "r-1"}
    removed = client.call(
        REGISTRY + "Deregister", **named, force=True, author="ana", reason="rogue", blockReregisterTtl="60s"
    )
    assert removed["removed"], removed
    late = client.refuse("FAILED_PRECONDITION", "REPLICA_REMOVED", REGISTRY + "Heartbeat", **owned)
    assert "ana: rogue" in late.message, late
    client.refuse(
        "FAILED_PRECONDITION", "REREGISTER_BLOCKED", REGISTRY + "Register", service="orders", endpoint={"address": address}
    )
    assert not client.call(REGISTRY + "Deregister", **named, force=True).get("removed")
    too_many = {"service": "full", "leaseTtl": "60s"}
    for port in range(1, 4):
        client.call(REGISTRY + "Register", **too_many, endpoint={"address": f"10.0.0.1:{port}"})
    client.refuse("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", REGISTRY + "Register", **too_many, endpoint={"address": "10.0.0.1:9"})
    huge = {"service": "x" * (1 << 21)}
    client.refuse("RESOURCE_EXHAUSTED", "MALFORMED_REQUEST", REGISTRY + "GetService", **huge)


def main():
    address, replica = sys.argv[1:]
    with grpc.insecure_channel(address) as channel:
        client = Client(channel)
        owned = registrations(client, replica)
        leases(client, owned, replica)
        lists(client)
        observation(client)
        drains(client, owned, replica)
        policies(client)
        routes(client)
        data_plane(client)
        moves(client)
        removals(client, owned, replica)
        json.dump({"called": sorted(client.called), "reasons": sorted(client.reasons)}, sys.stdout)


main()
