"""A schema registry in this process for tests: real HTTP, and as much of Confluent's API as the client uses."""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from connectors.schema_registry import RegistrySettings, SchemaRegistry


class FakeRegistry:
    """Answers on a port of its own until closed.

    Attributes:
        schemas: id -> what the registry answers for it.
        asked: the paths that were asked for, in order.
        broken: (status, body) to answer everything with, or None.
        login: "user:password" that it insists on, or "".
    """

    def __init__(self) -> None:
        self.schemas: dict[int, dict] = {}
        self.subjects: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.broken: tuple[int, bytes] | None = None
        self.login = ""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                self._answer(*registry.answer(self.path, self.headers))

            def do_POST(self) -> None:
                registry.asked.append(self.path)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                subject = unquote(self.path.split("/")[2])
                self._answer(200, json.dumps({"id": registry.add(body, subject)}).encode())

            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, schema: dict, subject: str = "payments-value", schema_id: int | None = None) -> int:
        for known, each in self.schemas.items():
            if each == schema:
                return known
        schema_id = schema_id or len(self.schemas) + 1
        self.schemas[schema_id] = schema
        self.subjects.setdefault(subject, []).append(schema_id)
        return schema_id

    def answer(self, path: str, headers: object) -> tuple[int, bytes]:
        if self.broken:
            return self.broken
        wanted = "Basic " + base64.b64encode(self.login.encode()).decode()
        if self.login and headers.get("Authorization") != wanted:
            return 401, b'{"error_code": 401, "message": "Unauthorized"}'
        if match := re.fullmatch(r"/schemas/ids/(\d+)", path):
            found = self.schemas.get(int(match.group(1)))
        else:
            _, _, subject, _, version = path.split("/")
            ids = self.subjects.get(unquote(subject), [])
            number = len(ids) if version == "latest" else int(version)
            found = {**self.schemas[ids[number - 1]], "id": ids[number - 1]} if 0 < number <= len(ids) else None
        if found is None:
            return 404, b'{"error_code": 40403, "message": "Schema not found"}'
        return 200, json.dumps(found).encode()

    def client(self, **settings: object) -> SchemaRegistry:
        return SchemaRegistry(RegistrySettings((self.url,), **settings))
