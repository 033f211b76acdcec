"""Calls a gRPC server knowing nothing of it but what reflection says.

    call.py ADDRESS '[{"method": "package.Service/Method", "request": {…}}, …]'

Prints {"services": […], "health": "SERVING", "answers": [{"code": "OK", "response": {…}, "details": […]}, …]}.
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2  # noqa: F401 - lets Any details be decoded
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

TIMEOUT = 10


def call(channel, pool, method, request):
    """Makes one unary call; returns what came of it as JSON."""
    service, name = method.split("/")
    descriptor = pool.FindServiceByName(service).FindMethodByName(name)
    message = message_factory.GetMessageClass(descriptor.input_type)()
    json_format.ParseDict(request, message)
    stub = channel.unary_unary(
        f"/{method}",
        request_serializer=lambda m: m.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(descriptor.output_type).FromString,
    )
    try:
        return {"code": "OK", "response": json_format.MessageToDict(stub(message, timeout=TIMEOUT)), "details": []}
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        details = [json_format.MessageToDict(detail) for detail in status.details] if status else []
        return {"code": error.code().name, "message": error.details(), "details": details}


def main():
    with grpc.insecure_channel(sys.argv[1]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = descriptor_pool.DescriptorPool(database)
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        calls = json.loads(sys.argv[2])
        json.dump(
            {
                "services": list(database.get_services()),
                "health": health_pb2.HealthCheckResponse.ServingStatus.Name(health.status),
                "answers": [call(channel, pool, one["method"], one["request"]) for one in calls],
            },
            sys.stdout,
        )


main()
