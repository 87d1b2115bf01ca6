"""Talks to `websocket-server.mjs` through an ingress with the package `websocket-client`: URL and address of the ingress as arguments."""

import os
import socket
import ssl
import sys

import websocket

url, address = sys.argv[1:]
real = socket.getaddrinfo
socket.getaddrinfo = lambda _host, port, *others: real(address, port, *others)
client = websocket.WebSocket(sslopt={"cert_reqs": ssl.CERT_NONE, "check_hostname": False})
client.connect(url, subprotocols=["echo.v1"], timeout=30)
assert client.recv().endswith(" echo.v1")
client.send("grüße")
assert client.recv() == "grüße"
data = os.urandom(300_000)
client.send_binary(data)
assert client.recv() == data
client.ping("there?")
frame = client.recv_frame()
assert (frame.opcode, frame.data) == (websocket.ABNF.OPCODE_PONG, b"there?"), frame
client.send("ping and-you")
assert client.recv() == "pong and-you"
client.send("close 4003 enough")
opcode, data = client.recv_data(control_frame=True)
assert opcode == websocket.ABNF.OPCODE_CLOSE and data == b"\x0f\xa3enough", (opcode, data)
