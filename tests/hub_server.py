"""A stand-in for the Hugging Face hub: one model with revisions, a gate, and downloads that break."""
from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    "What the server serves and does; tests change the fields while it runs."

    def __init__(self):
        self.revisions: dict[str, dict[str, bytes]] = {}    # revision -> file -> content
        self.token: str | None = None       # asked for, where set
        self.broken: set[str] = set()       # files whose download ends half way
        self.piece = 0                      # bytes that an answer with such a file brings; 0: half of it
        self.asked: list[str] = []          # paths of requests

    def sha(self, revision: str) -> str:
        "The commit of a revision; a commit stands for itself."
        known = {hashlib.sha1(name.encode()).hexdigest(): name for name in self.revisions}
        return revision if revision in known else hashlib.sha1(revision.encode()).hexdigest()

    def files(self, revision: str) -> dict[str, bytes] | None:
        return next((files for name, files in self.revisions.items() if self.sha(name) == self.sha(revision)), None)


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_): pass

    def reply(self, status: int, body: bytes = b"", cut: bool = False, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD": return
        self.wfile.write(body[: self.hub.piece or len(body) // 2] if cut else body)
        if cut: self.close_connection = True

    def do_HEAD(self): self.do_GET()

    def do_GET(self):
        hub, path = self.hub, self.path.partition("?")[0]
        hub.asked.append(path)
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.reply(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
        if found := re.fullmatch(r"/api/models/acme/tiny/(revision|tree)/([^/]+)", path):
            if (files := hub.files(found[2])) is None: return self.reply(404, b"{}", X_Error_Code="RevisionNotFound")
            if found[1] == "tree":
                listed = [dict(type="file", path=name, size=len(content), oid=hashlib.sha1(content).hexdigest())
                          for name, content in files.items()]
                return self.reply(200, json.dumps(listed).encode(), Content_Type="application/json")
            model = dict(id="acme/tiny", _id="1", sha=hub.sha(found[2]), siblings=[dict(rfilename=n) for n in files])
            return self.reply(200, json.dumps(model).encode(), Content_Type="application/json")
        if found := re.fullmatch(r"/acme/tiny/resolve/([^/]+)/(.+)", path):
            content = (hub.files(found[1]) or {}).get(found[2])
            if content is None: return self.reply(404, b"", X_Error_Code="EntryNotFound")
            start, headers = 0, {}
            if wanted := re.match(r"bytes=(\d+)-", self.headers.get("Range") or ""):
                start = int(wanted[1])
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            headers |= {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": hub.sha(found[1])}
            return self.reply(206 if start else 200, content[start:], cut=found[2] in hub.broken, **headers)
        self.reply(404, b"{}", X_Error_Code="RepoNotFound")


@contextmanager
def serving():
    "A running hub and its address."
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try: yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
