"""Calls every RPC that reflection lists, once as each of several callers, with an empty message, but those whom nobody knows with one
about the service `payments`, which would be taken from others; and once with that as the caller `orders`, under `foreign`.

    access.py ADDRESS '{"caller": "token or empty", …}' READER_TOKEN [CA_FILE]

Prints {"package.Service/Method": {"caller": {"code": "PERMISSION_DENIED", "reason": "…"}, …}, …}; the code is OK when the call
was let in, whatever became of it, also when the server refused the message itself.
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2  # noqa: F401 - lets Any details be decoded
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from google.protobuf.descriptor_pb2 import FileDescriptorProto

STRANGERS = {"", "expired", "unknown"}
REFUSALS = {"UNAUTHENTICATED", "PERMISSION_DENIED"}


def bearer(token):
    return [("authorization", f"Bearer {token}")] if token else []


class Reflection:
    """The services, as reflection describes them to somebody who may ask."""

    def __init__(self, channel, token):
        self.stub, self.token = reflection_pb2_grpc.ServerReflectionStub(channel), token
        self.pool, self.known = descriptor_pool.DescriptorPool(), set()

    def ask(self, **wanted):
        request = reflection_pb2.ServerReflectionRequest(**wanted)
        return next(self.stub.ServerReflectionInfo(iter([request]), metadata=bearer(self.token), timeout=10))

    def services(self):
        return [service.name for service in self.ask(list_services="").list_services_response.service]

    def add(self, **wanted):
        for raw in self.ask(**wanted).file_descriptor_response.file_descriptor_proto:
            file = FileDescriptorProto.FromString(raw)
            if file.name in self.known:
                continue
            self.known.add(file.name)
            for needed in file.dependency:
                if needed not in self.known:
                    self.add(file_by_filename=needed)
            self.pool.Add(file)

    def methods(self, service):
        self.add(file_containing_symbol=service)
        return self.pool.FindServiceByName(service).methods


def outcome(error):
    status = rpc_status.from_call(error)
    details = [json_format.MessageToDict(detail) for detail in status.details] if status else []
    reasons = [detail["reason"] for detail in details if detail["@type"].endswith("ErrorInfo")]
    code = error.code().name
    return {"code": code if code in REFUSALS else "OK", "reason": reasons[0] if reasons else ""}


def about_payments(message):
    """Sets what the message has of a service, a replica and its lease."""
    for field in message.DESCRIPTOR.fields:
        if field.name == "endpoint":
            message.endpoint.address = "10.0.0.1:80"
        elif field.name == "health":
            message.health = 2
        elif field.name in ("service", "replica_id", "lease_id") and field.cpp_type == field.CPPTYPE_STRING:
            setattr(message, field.name, {"service": "payments", "replica_id": "r-1", "lease_id": "0" * 32}[field.name])
    return message


def attempt(channel, method, token, fill=lambda message: message):
    make = message_factory.GetMessageClass(method.input_type)
    read = message_factory.GetMessageClass(method.output_type).FromString
    kind = ("stream" if method.client_streaming else "unary") + "_" + ("stream" if method.server_streaming else "unary")
    path = f"/{method.containing_service.full_name}/{method.name}"
    call = getattr(channel, kind)(path, request_serializer=lambda m: m.SerializeToString(), response_deserializer=read)
    request = iter([fill(make())]) if method.client_streaming else fill(make())
    try:
        answer = call(request, metadata=bearer(token), timeout=1.5)
        if method.server_streaming:
            # The first message, or the refusal; streams that are let in may have nothing to say.
            next(iter(answer), None)
            answer.cancel()
        return {"code": "OK", "reason": ""}
    except grpc.RpcError as error:
        return outcome(error)


def main():
    address, callers, reader = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    if len(sys.argv) > 4:
        with open(sys.argv[4], "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        channel = grpc.secure_channel(address, credentials)
    else:
        channel = grpc.insecure_channel(address)
    told = {}
    with channel:
        reflection = Reflection(channel, reader)
        for service in reflection.services():
            for method in reflection.methods(service):
                name = f"{service}/{method.name}"
                told[name] = {
                    caller: attempt(channel, method, token, about_payments if caller in STRANGERS else lambda message: message)
                    for caller, token in callers.items()
                }
                told[name]["foreign"] = attempt(channel, method, callers["orders"], about_payments)
    json.dump(told, sys.stdout)


main()
