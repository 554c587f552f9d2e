"""The queries of our dashboard, as Grafana would ask them, and a stand-in for the Grafana that it is pushed to."""

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ops.dashboards.overview import overview
from tests.prometheus import Prometheus

RANGE = "10s"  # Grafana's $__rate_interval is four scrapes or more


def panels():
    return [panel for panel in overview()["panels"] if panel["type"] != "row"]


def queries():
    """Every query of the dashboard as (where, PromQL), with Grafana's variables as they stand for everything."""
    found = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    found += [(each["name"], each["expr"]) for each in overview()["annotations"]["list"]]
    values = {"$app": ".*", "$worker": ".*", "$__rate_interval": RANGE}
    return [(where, re.sub(r"\$\w+", lambda match: values[match[0]], query)) for where, query in found]


def without_data(prometheus: Prometheus, asked):
    """Return those of some queries that have no series with a figure now."""
    return [each for each in asked if not has_figures(prometheus.query(each[1]))]


def has_figures(series):
    return any(each["value"][1] not in ("NaN", "+Inf", "-Inf") for each in series)


class Grafana(BaseHTTPRequestHandler):
    """As much of Grafana's HTTP interface as a push needs; notes what it is asked."""

    def do_GET(self):
        self.server.asked.append(("GET", self.path, self.headers["Authorization"], None))
        known = "Bearer right" if self.headers["Authorization"] != "Bearer wrong" else None
        self.answer(*((404, {"message": "folder not found"}) if known else (401, {"message": "Unauthorized"})))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(("POST", self.path, self.headers["Authorization"], body))
        self.answer(200, {"url": "/d/pelton-overview/pelton", "status": "success"})

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def running() -> Iterator[tuple[str, list]]:
    """Run the stand-in; gives its URL, and the list of what it is asked: verb, path, who, body."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Grafana) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", server.asked
        finally:
            server.shutdown()
            thread.join()
