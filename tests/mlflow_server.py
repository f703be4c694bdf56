"""A real MLflow server in a process of its own, and a proxy before it that makes trouble."""
from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class MLflowServer:
    "`mlflow server` on a database file."

    def __init__(self, folder: Path, database: Path):
        self.folder, self.database, self.port = folder, database, free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> MLflowServer:
        "Start, and do not wait."
        command = [Path(sys.executable).with_name("mlflow"), "server", "--backend-store-uri",
                   f"sqlite:///{self.database}", "--artifacts-destination", self.folder / "artifacts", "--host",
                   "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=(self.folder / "server.log").open("ab"), stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, "PATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                                         "MLFLOW_DISABLE_TELEMETRY": "true"})
        return self

    def wait(self, seconds: float = 120) -> MLflowServer:
        "Wait until it answers."
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5): return self
            except OSError: time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])

    def signal(self, number: int) -> None:
        "Send a signal to the server and its workers."
        os.killpg(self.process.pid, number)

    def freeze(self) -> None: self.signal(signal.SIGSTOP)
    def thaw(self) -> None: self.signal(signal.SIGCONT)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()


class Proxy(ThreadingHTTPServer):
    """Passes requests on, or makes trouble: `mode` is one of

    pass; drop: hang up; 500, 503, 429: answer so; hang: do not answer; slow: answer late; garbage: a page of HTML;
    lost: pass the request on, and lose the answer; cut: half of the answer; torn: half of an answer, and the request
    is not passed on.
    """

    daemon_threads = True

    def __init__(self, backend: MLflowServer):
        self.backend, self.mode, self.met, self.arrived = backend, "pass", Counter(), []
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_): """A client that hung up is no news."""

    def close(self):
        self.closing.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def log_message(self, *_): """Quiet."""

    def do(self):
        body, mode = self.rfile.read(int(self.headers.get("Content-Length", 0))), self.server.mode
        if mode == "hang":
            self.server.met[mode] += 1
            self.server.closing.wait(60)
            return
        if mode == "drop": return self.meet(mode)
        if mode.isdigit(): return self.meet(mode, int(mode), b'{"error_code": "INTERNAL_ERROR", "message": "no"}')
        if mode == "garbage": return self.meet(mode, 200, b"<html>Under maintenance</html>")
        if mode == "torn": return self.meet(mode, 200, b"{", 100)
        if mode == "slow": time.sleep(0.3)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.backend.port, timeout=60)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data, status = answer.read(), answer.status
        except OSError: return self.meet("down")
        finally: connection.close()
        if self.path.endswith("runs/log-batch") and status == 200:
            self.server.arrived += [metric["step"] for metric in json.loads(body).get("metrics", [])
                                    if metric["key"] == "loss"]
        if mode == "lost": return self.meet(mode)
        if mode == "cut": return self.meet(mode, status, data, len(data) + 100)
        self.server.met[mode] += 1
        self.reply(status, data, len(data))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do

    def meet(self, mode, status=None, data=b"", length=None):
        "Make trouble, and count it."
        if status is not None: self.reply(status, data, length or len(data))
        self.close_connection = True
        self.server.met[mode] += 1

    def reply(self, status, data, length):
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)
