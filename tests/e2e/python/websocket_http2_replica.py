"""A replica that speaks WebSockets over HTTP/2 only (RFC 8441), by the h2 and websockets libraries.

Usage: websocket_http2_replica.py [CERTIFICATE KEY]. Prints where it listens, as JSON. Runs until it is killed.
"""

import asyncio
import json
import ssl
import sys

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol


class Connection(asyncio.Protocol):
    """Each stream is a WebSocket that echoes; closes with the code that it is told to close with."""

    def connection_made(self, transport):
        self.transport = transport
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1})
        self.sockets = {}
        self.waiting = {}
        self.ending = set()
        self.flush()

    def data_received(self, data):
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.asked(event.stream_id, dict(event.headers))
            elif isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.heard(event.stream_id, event.data)
            elif isinstance(event, h2.events.StreamEnded):
                self.waiting.setdefault(event.stream_id, b"")
                self.ending.add(event.stream_id)
                self.send(event.stream_id)
            elif isinstance(event, h2.events.WindowUpdated):
                for stream in list(self.waiting):
                    self.send(stream)
        self.flush()

    def asked(self, stream, fields):
        is_right = fields[":method"] == "CONNECT" and fields.get(":protocol") == "websocket"
        if not is_right or "sec-websocket-key" in fields or fields["sec-websocket-version"] != "13":
            self.h2.send_headers(stream, [(":status", "400")], end_stream=True)
            return
        self.h2.send_headers(stream, [(":status", "200"), ("sec-websocket-protocol", "chat")])
        self.sockets[stream] = ServerProtocol(state=State.OPEN, max_size=1 << 22)

    def heard(self, stream, data):
        socket = self.sockets.get(stream)
        if socket is None:
            return
        socket.receive_data(data)
        for frame in socket.events_received():
            if frame.opcode is Opcode.TEXT and frame.data.startswith(b"close "):
                socket.send_close(int(frame.data.split()[1]), "as told")
            elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self.echo(socket, frame)
        pieces = socket.data_to_send()
        self.waiting[stream] = self.waiting.get(stream, b"") + b"".join(pieces)
        # Once both sides have said goodbye it is the server's to end the stream (RFC 6455 section 7.1.1): an empty piece.
        if b"" in pieces:
            self.ending.add(stream)
        self.send(stream)

    def echo(self, socket, frame):
        if frame.opcode is Opcode.TEXT:
            socket.send_text(frame.data, fin=frame.fin)
        elif frame.opcode is Opcode.BINARY:
            socket.send_binary(frame.data, fin=frame.fin)
        else:
            socket.send_continuation(frame.data, fin=frame.fin)

    def send(self, stream):
        """As much as the window takes; the rest waits for more of it."""
        try:
            while self.waiting.get(stream):
                size = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
                if size <= 0:
                    return
                piece, self.waiting[stream] = self.waiting[stream][:size], self.waiting[stream][size:]
                self.h2.send_data(stream, piece)
            if stream in self.ending:
                # Once: what follows has nothing to send.
                self.waiting.pop(stream, None)
                self.h2.end_stream(stream)
        except h2.exceptions.ProtocolError:
            self.waiting.pop(stream, None)

    def flush(self):
        self.transport.write(self.h2.data_to_send())


async def main():
    tls = None
    if len(sys.argv) > 1:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*sys.argv[1:])
        tls.set_alpn_protocols(["h2"])
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, ssl=tls)
    at = "%s:%d" % server.sockets[0].getsockname()
    # There are no pages here; whoever asks for some finds nobody.
    print(json.dumps({"ready": True, "chat": at, "pages": at}), flush=True)
    await server.serve_forever()


asyncio.run(main())
