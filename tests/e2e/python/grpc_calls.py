"""gRPC calls of every kind, by programs that share no code with us.

    grpc_calls.py serve NAME [CERTIFICATE KEY]      a server, with TLS or without; prints {"ready": true, "port": …}
    grpc_calls.py call ADDRESS    a client; prints {"answered_by": […], "checked": […]}
    grpc_calls.py die ADDRESS     a client of a call whose server dies; prints {"code": …}
"""

import json
import os
import pathlib
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "test.Calls"
LARGE = 3 << 20


class Calls(grpc.GenericRpcHandler):
    """Messages are bytes; what is done with them is the method's name."""

    def __init__(self, name):
        self.name = name.encode()
        self.cancelled = threading.Event()

    def service(self, details):
        method = details.method.removeprefix(f"/{SERVICE}/")
        kinds = {
            "Unary": (grpc.unary_unary_rpc_method_handler, self.unary),
            "Meta": (grpc.unary_unary_rpc_method_handler, self.meta),
            "Fail": (grpc.unary_unary_rpc_method_handler, self.fail),
            "Slow": (grpc.unary_unary_rpc_method_handler, self.slow),
            "Cancelled": (grpc.unary_unary_rpc_method_handler, self.was_cancelled),
            "Count": (grpc.unary_stream_rpc_method_handler, self.count),
            "Endless": (grpc.unary_stream_rpc_method_handler, self.endless),
            "Die": (grpc.unary_stream_rpc_method_handler, self.die),
            "Sum": (grpc.stream_unary_rpc_method_handler, self.sum),
            "Echo": (grpc.stream_stream_rpc_method_handler, self.echo),
        }
        make, behaviour = kinds[method]
        return make(behaviour)

    def unary(self, request, context):
        context.send_initial_metadata((("server", self.name.decode()),))
        return request

    def meta(self, request, context):
        seen = dict(context.invocation_metadata())
        context.send_initial_metadata((("seen-text", seen["text"]), ("seen-bin", seen["some-bin"])))
        context.set_trailing_metadata((("behind-bin", b"\0\xff behind"),))
        left = context.time_remaining()
        return json.dumps({"left": left, "authority": seen.get("x-forwarded-host", "")}).encode()

    def fail(self, request, context):
        code = next(code for code in grpc.StatusCode if code.name.encode() == request)
        context.set_trailing_metadata((("why-bin", b"\1\2"),))
        context.abort(code, "größer als 50 %")

    def slow(self, request, context):
        time.sleep(float(request))
        return b"late"

    def was_cancelled(self, request, context):
        return b"yes" if self.cancelled.wait(5) else b"no"

    def count(self, request, context):
        for number in range(int(request)):
            yield str(number).encode()

    def endless(self, request, context):
        context.add_callback(self.cancelled.set)
        while context.is_active():
            yield b"x"
            time.sleep(0.05)

    def die(self, request, context):
        yield b"begun"
        time.sleep(0.3)
        os._exit(1)

    def sum(self, requests, context):
        return str(sum(int(request) for request in requests)).encode()

    def echo(self, requests, context):
        for request in requests:
            yield request


def serve(name, certificate=None, key=None):
    server = grpc.server(futures.ThreadPoolExecutor(16), options=OPTIONS)
    server.add_generic_rpc_handlers((Calls(name),))
    if certificate:
        shown = [(pathlib.Path(key).read_bytes(), pathlib.Path(certificate).read_bytes())]
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(shown))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"ready": True, "port": port}), flush=True)
    server.wait_for_termination()


OPTIONS = (("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20))


def channel(address):
    return grpc.insecure_channel(address, options=(("grpc.default_authority", "calls.localhost"), *OPTIONS))


def refused(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it was answered")


def call(address):
    checked = []
    with channel(address) as to:
        unary, meta = to.unary_unary(f"/{SERVICE}/Unary"), to.unary_unary(f"/{SERVICE}/Meta")

        names = []
        for _ in range(8):
            _, info = unary.with_call(b"hello", timeout=10)
            names.append(dict(info.initial_metadata())["server"])
        checked.append("unary")

        large = os.urandom(LARGE)
        assert unary(large, timeout=20) == large
        checked.append("large messages")

        answer, info = meta.with_call(b"", timeout=5, metadata=(("text", "a b"), ("some-bin", b"\0\1\xfe")))
        initial, trailing = dict(info.initial_metadata()), dict(info.trailing_metadata())
        assert initial["seen-text"] == "a b" and initial["seen-bin"] == b"\0\1\xfe", initial
        assert trailing["behind-bin"] == b"\0\xff behind", trailing
        told = json.loads(answer)
        # The library rounds up what it asks for.
        assert 0 < told["left"] < 6 and told["authority"].startswith("calls.localhost"), told
        checked.append("metadata and deadlines pass")

        for code in ("INVALID_ARGUMENT", "PERMISSION_DENIED", "NOT_FOUND", "RESOURCE_EXHAUSTED"):
            error = refused(lambda: to.unary_unary(f"/{SERVICE}/Fail")(code.encode(), timeout=5))
            assert error.code().name == code and error.details() == "größer als 50 %", error
            assert dict(error.trailing_metadata())["why-bin"] == b"\1\2", error
        checked.append("errors")

        counted = [int(item) for item in to.unary_stream(f"/{SERVICE}/Count")(b"500", timeout=10)]
        assert counted == list(range(500))
        checked.append("server streaming")

        numbers = (str(number).encode() for number in range(500))
        assert to.stream_unary(f"/{SERVICE}/Sum")(numbers, timeout=10) == b"124750"
        checked.append("client streaming")

        # Each message waits for the answer to the one before: neither side may be held back.
        turns = []
        ready = threading.Semaphore(1)

        def asked():
            for number in range(50):
                assert ready.acquire(timeout=5)
                yield str(number).encode()

        for echoed in to.stream_stream(f"/{SERVICE}/Echo")(asked(), timeout=20):
            turns.append(int(echoed))
            ready.release()
        assert turns == list(range(50))
        checked.append("bidirectional streaming")

        began = time.monotonic()
        error = refused(lambda: to.unary_unary(f"/{SERVICE}/Slow")(b"3", timeout=0.5))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED and time.monotonic() - began < 2.5, error
        checked.append("deadlines")

        stream = to.unary_stream(f"/{SERVICE}/Endless")(b"", timeout=20)
        assert next(stream) == b"x"
        stream.cancel()
        assert any(to.unary_unary(f"/{SERVICE}/Cancelled")(b"", timeout=10) == b"yes" for _ in range(2))
        checked.append("cancellation")

    with grpc.insecure_channel(address, options=(("grpc.default_authority", "nobody.localhost"),)) as to:
        error = refused(lambda: to.unary_unary(f"/{SERVICE}/Unary")(b"", timeout=5))
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED and "nobody" in error.details(), error
        checked.append("the gateway's own words")
    print(json.dumps({"answered_by": names, "checked": checked}))


def die(address):
    with channel(address) as to:
        stream = to.unary_stream(f"/{SERVICE}/Die")(b"", timeout=20)
        assert next(stream) == b"begun"
        print(json.dumps({"code": refused(lambda: next(stream)).code().name}))


if __name__ == "__main__":
    {"serve": serve, "call": call, "die": die}[sys.argv[1]](*sys.argv[2:])
