"""A service that registers itself with the gateway, and leaves it without a lost request.

    pip install -r requirements.txt
    python -m grpc_tools.protoc -I ../../../proto --python_out=. --grpc_python_out=. ../../../proto/gateway/v1/*.proto
    CONTROL_PLANE=localhost:7400 SERVICE=orders LISTEN=127.0.0.1:9000 python replica.py
"""

import os
import random
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from gateway.v1 import registry_service_pb2 as pb
from gateway.v1 import types_pb2 as types
from gateway.v1.registry_service_pb2_grpc import RegistryServiceStub
from google.protobuf.duration_pb2 import Duration

CONTROL_PLANE = os.environ.get("CONTROL_PLANE", "localhost:7400")
SERVICE = os.environ.get("SERVICE", "orders")
LISTEN = os.environ.get("LISTEN", "127.0.0.1:9000")
PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)


class Hello(BaseHTTPRequestHandler):
    """The service itself."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"Hello from Python\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Membership:
    """Keeps one replica in the registry until it leaves."""

    def __init__(self, registry, address):
        self.registry, self.address = registry, address
        self.replica_id, self.lease_id, self.interval = "", "", 5.0
        self.left = threading.Event()

    def identity(self):
        return {"service": SERVICE, "replica_id": self.replica_id, "lease_id": self.lease_id}

    def register(self):
        """Registers, and reports health once that is true. A control plane that is away is waited for."""
        request = pb.RegisterRequest(
            service=SERVICE,
            replica_id=self.replica_id,  # empty: the registry chooses one
            endpoint=types.Endpoint(address=self.address),
            initial_health=types.HEALTH_STATUS_STARTING,
            lease_ttl=Duration(seconds=15),
        )
        while not self.left.is_set():
            try:
                granted = self.registry.Register(request, timeout=5)
                self.replica_id, self.lease_id = granted.replica.replica_id, granted.lease_id
                self.interval = granted.heartbeat_interval.ToTimedelta().total_seconds()
                self.report(types.HEALTH_STATUS_HEALTHY, "it listens")
                print(f"{SERVICE}/{self.replica_id} registered at {self.address}", flush=True)
                return
            except grpc.RpcError as error:
                if error.code() not in PASSING:
                    raise
                self.left.wait(random.uniform(0.1, 1))  # jitter: many replicas must not come back together

    def report(self, health, reason):
        request = pb.ReportHealthRequest(**self.identity(), health=health, reason=reason)
        self.registry.ReportHealth(request, timeout=5)

    def keep_alive(self):
        """Renews the lease over one stream; opens another when that breaks, and registers anew when the lease is lost."""
        while not self.left.is_set():
            reason = self.renew()
            if reason == "LEASE_MISMATCH":
                sys.stderr.write("another process has taken this replica's place\n")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            if reason:
                self.register()
            else:
                self.left.wait(random.uniform(0.1, 1))

    def renew(self):
        """Renews on one stream until that breaks, or until the lease is lost: then this says why.

        A lease has a stream of its own: what is still said of the last one must not be taken for news of the next.
        """
        stream = self.registry.KeepAlive(self.heartbeats())
        try:
            for answer in stream:
                for result in answer.results:
                    if result.WhichOneof("result") == "lost":
                        return result.lost.reason
        except grpc.RpcError:
            return None
        finally:
            stream.cancel()

    def heartbeats(self):
        while True:
            yield pb.KeepAliveRequest(heartbeats=[pb.HeartbeatRequest(**self.identity())])
            if self.left.wait(self.interval):
                return

    def leave(self):
        """Waits until no data plane sends anything more, then leaves the registry."""
        wait = Duration(seconds=20)
        try:
            self.registry.DrainReplica(
                pb.DrainReplicaRequest(
                    **self.identity(), allow_last=True, reason="it ends", drain_timeout=wait, wait_timeout=wait
                ),
                timeout=25,
            )
            self.left.set()
            self.registry.Deregister(pb.DeregisterRequest(**self.identity(), reason="it ends"), timeout=5)
        except grpc.RpcError as error:
            # Without a word from us the lease lapses.
            sys.stderr.write(f"not deregistered: {error.details()}\n")
        self.left.set()


def main():
    host, port = LISTEN.rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), Hello)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    # With TLS: grpc.secure_channel(CONTROL_PLANE, grpc.ssl_channel_credentials(ca)).
    with grpc.insecure_channel(CONTROL_PLANE) as channel:
        membership = Membership(RegistryServiceStub(channel), f"{host}:{server.server_port}")
        stopped = threading.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: stopped.set())
        membership.register()
        threading.Thread(target=membership.keep_alive, daemon=True).start()
        stopped.wait()
        membership.leave()
    server.shutdown()


if __name__ == "__main__":
    main()
