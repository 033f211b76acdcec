"""Clients that are not ours: WebSockets by the websockets library, and over HTTP/2 (RFC 8441) by h2.

Usage: websocket_client.py PLAIN_ADDRESS TLS_ADDRESS CERTIFICATE. Prints what it found as JSON.
"""

import asyncio
import json
import os
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

PLAIN, SECURE, CERTIFICATE = sys.argv[1:]


def tls(protocol):
    context = ssl.create_default_context(cafile=CERTIFICATE)
    context.check_hostname = False
    context.set_alpn_protocols([protocol])
    return context


async def converse(url, context):
    """Everything that a WebSocket can carry, there and back."""
    found = {}
    large = os.urandom(1 << 20)
    async with connect(url, ssl=context, subprotocols=["chat", "other"], max_size=1 << 22) as ws:
        found["subprotocol"] = ws.subprotocol
        found["extensions"] = ws.response.headers.get("Sec-WebSocket-Extensions", "")
        await ws.send("grüße")
        found["text"] = await ws.recv()
        await ws.send(large)
        found["large"] = await ws.recv() == large
        await ws.send(["in ", "several ", "frames"])
        found["fragments"] = await ws.recv()
        await (await ws.ping(b"there?"))
        found["pong"] = True
        await ws.send("close 4002")
        try:
            await ws.recv()
        except ConnectionClosed as closed:
            found["closed"] = [closed.rcvd.code, closed.rcvd.reason]
    return found


class Http2:
    """One connection, one stream at a time."""

    def __init__(self, address, context):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname=host)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.flush()
        self.events = []

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def until(self, kind):
        while True:
            for index, event in enumerate(self.events):
                if isinstance(event, kind):
                    return self.events.pop(index)
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self.events += self.h2.receive_data(data)
            self.flush()

    def ask(self, fields):
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, fields)
        self.flush()
        return stream

    def data(self, stream):
        while True:
            event = self.until(h2.events.DataReceived)
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.flush()
            # The end of a stream may come as data of no bytes.
            if event.stream_id == stream and event.data:
                return event.data


def extended(path, protocol):
    return [
        (":method", "CONNECT"),
        (":protocol", protocol),
        (":scheme", "https"),
        (":authority", "gw.example"),
        (":path", path),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat"),
    ]


def over_http2(address, context):
    found = {}
    client = Http2(address, context)
    client.until(h2.events.RemoteSettingsChanged)
    found["offered"] = client.h2.remote_settings.enable_connect_protocol
    stream = client.ask(extended("/chat/room", "websocket"))
    answer = dict(client.until(h2.events.ResponseReceived).headers)
    found["status"] = answer[":status"]
    found["subprotocol"] = answer.get("sec-websocket-protocol")
    client.h2.send_data(stream, Frame(Opcode.TEXT, b"hello").serialize(mask=True))
    client.flush()
    heard = b""
    while len(heard) < 7:
        heard += client.data(stream)
    found["echo"] = heard == Frame(Opcode.TEXT, b"hello").serialize(mask=False)
    client.h2.send_data(stream, Frame(Opcode.CLOSE, b"\x0f\xa1").serialize(mask=True))
    client.flush()
    heard = b""
    while len(heard) < 4:
        heard += client.data(stream)
    found["closed"] = int.from_bytes(heard[2:4], "big")
    client.until(h2.events.StreamEnded)
    client.h2.end_stream(stream)
    client.flush()
    stream = client.ask(extended("/chat/room", "connect-udp"))
    found["other"] = dict(client.until(h2.events.ResponseReceived).headers)[":status"]
    found["problem"] = json.loads(client.data(stream))["reason"]
    return found


async def main():
    secure = f"wss://{SECURE}/chat/room"
    found = {
        "plain": await converse(f"ws://{PLAIN}/chat/room", None),
        "secure": await converse(secure, tls("http/1.1")),
        "h2c": await asyncio.to_thread(over_http2, PLAIN, None),
        "h2": await asyncio.to_thread(over_http2, SECURE, tls("h2")),
    }
    print(json.dumps(found))


asyncio.run(main())
