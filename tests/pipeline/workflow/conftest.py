"""A listener for notifications of a Prefect server."""

import http.server
import json
import threading

import pytest


@pytest.fixture(scope="module")
def webhook():
    """The address of a listener on loopback, and the messages that it has received."""
    messages = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", messages
        server.shutdown()
