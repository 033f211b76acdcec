"""A replica by the websockets library, and one of pages and events.

Usage: websocket_replica.py [CERTIFICATE KEY], which WebSockets are spoken to with TLS by. Prints where it listens, as JSON, then one
line for each report that a page posts. Runs until it is killed.
"""

import asyncio
import json
import pathlib
import ssl
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

PAGE = pathlib.Path(__file__).with_name("page.html").read_bytes()


async def chat(socket):
    """Echoes; closes with the code that it is told to close with."""
    try:
        async for message in socket:
            if isinstance(message, str) and message.startswith("close "):
                await socket.close(int(message.split()[1]), "as told")
            else:
                await socket.send(message)
    except ConnectionClosed:
        pass


def response(kind, body=b""):
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def events(writer):
    """An event every fifth of a second with comments between them, for as long as somebody listens."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n")
    writer.write(b"transfer-encoding: chunked\r\n\r\n")
    for number in range(1000):
        for text in (f"id: {number}\ndata: event {number}\n\n", ": a comment\n\n"):
            writer.write(f"{len(text):x}\r\n{text}\r\n".encode())
            await writer.drain()
            await asyncio.sleep(0.1)


async def pages(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _ = head.split("\r\n")[0].split(" ")
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            body = await reader.readexactly(int(fields.get("content-length", "0")))
            if path.startswith("/events"):
                await events(writer)
            elif method == "POST":
                print(body.decode(), flush=True)
                writer.write(response("text/plain", b"thanks"))
            else:
                writer.write(response("text/html; charset=utf-8", PAGE))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def tls():
    """What speaks HTTP/1.1 only, and says so to whoever offers more."""
    if len(sys.argv) == 1:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[1:])
    context.set_alpn_protocols(["http/1.1"])
    return context


async def main():
    async with serve(chat, "127.0.0.1", 0, ssl=tls(), subprotocols=["chat"], max_size=1 << 22) as sockets:
        server = await asyncio.start_server(pages, "127.0.0.1", 0)
        at = {name: "%s:%d" % listener.sockets[0].getsockname() for name, listener in (("chat", sockets), ("pages", server))}
        print(json.dumps({"ready": True} | at), flush=True)
        await server.serve_forever()


asyncio.run(main())
