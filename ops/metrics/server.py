"""Serves `/metrics` for Prometheus and `/healthz` for whoever restarts what is stuck."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client.exposition import choose_encoder

from ops.metrics.metrics import Metrics

HOST = "127.0.0.1"
REQUEST_S_MAX = 10.0  # a client that sends nothing for so long is let go


class MetricsServerError(ValueError):
    """The address cannot be used; the message says what to do."""


class MetricsServer(AbstractContextManager["MetricsServer"]):
    """A thread that answers over HTTP until the block ends.

    Args:
        metrics: what to tell.
        port: 0 takes a free one.
        host: who may ask: only this machine by default, for nothing here asks for a password.

    Attributes:
        port: the one it listens on.

    Raises:
        MetricsServerError: the address is in use, or is none of this machine.
    """

    def __init__(self, metrics: Metrics, port: int, host: str = HOST) -> None:
        handler = type("Handler", (_Handler,), {"metrics": metrics})
        try:
            self._server = ThreadingHTTPServer((host, port), handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise MetricsServerError(
                f"metrics cannot be served at {host}:{port}: {why}; choose another --metrics-port or --metrics-host"
            ) from None
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def __enter__(self) -> MetricsServer:
        """Begin to answer."""
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    metrics: Metrics
    timeout = REQUEST_S_MAX
    server_version, sys_version = "pelton", ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, content_type, encode(self.metrics.registry))
        elif path == "/healthz":
            stalled, problems = self.metrics.stalled, self.metrics.problems
            words = [stalled or "ok", *(f"problem: {problem}" for problem in problems)]
            self._answer(503 if stalled else 200, "text/plain; charset=utf-8", "\n".join([*words, ""]).encode())
        else:
            self._answer(404, "text/plain; charset=utf-8", b"here are /metrics and /healthz\n")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the terminal belongs to the view."""
