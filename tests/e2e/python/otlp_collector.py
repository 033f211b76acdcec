"""A collector of traces that speaks gRPC with TLS: turns the first batch away for now, and writes each other one to a file of the folder.

Arguments: the folder, the certificate and its key.
"""

import json
import pathlib
import sys
from concurrent import futures

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

folder, certificate, key = map(pathlib.Path, sys.argv[1:])


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self):
        self.calls = 0

    def Export(self, request, context):
        self.calls += 1
        if self.calls == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        assert dict(context.invocation_metadata())["authorization"] == "Bearer of-arms"
        new = folder / f"{self.calls}.new"
        new.write_bytes(request.SerializeToString())
        new.rename(folder / f"{self.calls}.bin")
        return trace_service_pb2.ExportTraceServiceResponse()


# One at a time, so that the calls are counted.
server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), server)
shown = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
port = server.add_secure_port("127.0.0.1:0", shown)
server.start()
print(json.dumps({"ready": True, "collector": f"127.0.0.1:{port}"}), flush=True)
server.wait_for_termination()
