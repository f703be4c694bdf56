"""A small local server that speaks Kaggle's protocol for competitions, for tests with the real `kaggle` client.

Standard library only. A client in any process reaches it with

    KAGGLE_API_ENVIRONMENT=LOCALHOST  HTTP_PROXY=<server.url>      (and no NO_PROXY)

Faults are dictionaries in `server.faults`; `match` is a part of the request's name, such as "CreateSubmission" or
"PUT upload":

    {"match": "ListSubmissions", "status": 429, "retry_after": 0.1, "times": 2}     refuse before anything is done
    {"match": "CreateSubmission", "status": 500, "after": True}                     do it, then answer 500
    {"match": "CreateSubmission", "drop": True, "after": True}                      do it, then hang up
    {"match": "CreateSubmission", "garbage": True, "after": True}                   do it, then answer with a web page
    {"match": "GET blob", "cut": 1000}                                              hang up after 1000 bytes
    {"match": "PUT upload", "cut": 1000}                                            take 1000 bytes and hang up
    {"match": "IntrospectToken", "silent": 30}                                      answer after 30 s
"""
from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import socket
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

RULES = "You must accept this competition's rules before you'll be able to download files or submit."


def accuracy(truth: list[str], answers: list[str]) -> float:
    return sum(a == b for a, b in zip(truth, answers, strict=True)) / len(truth)


@dataclass
class Competition:
    "A competition: its files, the solution and the rules of the game."
    slug: str
    files: dict[str, bytes]                     # name -> content
    solution: dict[str, str]                    # id -> answer; every third row counts for the public score
    metric: Callable[[list[str], list[str]], float] = accuracy
    id_column: str = "id"
    target: str = "target"
    entrants: set[str] = field(default_factory=lambda: {"ada"})
    max_daily: int = 5
    ended: bool = False                         # private scores are shown
    delay: float = 0.0                          # s until a submission is scored
    archive: bytes | None = None                # sent instead of a zip of the files
    modified: float = 1_700_000_000.0

    def zipped(self) -> bytes:
        if self.archive is not None: return self.archive
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as zipped:
            for name, content in sorted(self.files.items()):
                zipped.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), content)
        return buffer.getvalue()

    def score(self, content: bytes) -> tuple[float, float]:
        "Public and private score. Raises ValueError with what Kaggle would say of a bad file."
        rows = list(csv.DictReader(io.StringIO(content.decode())))
        if not rows or list(rows[0]) != [self.id_column, self.target]:
            raise ValueError(f"Submission must have columns: {self.id_column},{self.target}")
        answers = {row[self.id_column]: row[self.target] for row in rows}
        if set(answers) != set(self.solution): raise ValueError("Submission has wrong ids")
        ids = list(self.solution)
        parts = ids[::3], [i for n, i in enumerate(ids) if n % 3]
        public, private = (self.metric([self.solution[i] for i in part], [answers[i] for i in part]) for part in parts)
        return public, private


class Refused(Exception):
    "An answer with an error status."

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


class KaggleServer:
    "The state of the site. Use as a context manager; `url` is what clients take as their proxy."

    def __init__(self, *competitions: Competition):
        self.competitions = {c.slug: c for c in competitions}
        self.users, self.tokens = {"ada": "ada-secret-key"}, {"KGAT_ada_token": "ada"}
        self.submissions: list[dict[str, Any]] = []
        self.faults: list[dict[str, Any]] = []
        self.requests: list[str] = []               # names of the requests, in order
        self.ranges: list[str] = []                 # Range headers of downloads
        self.blobs: dict[str, tuple[bytes, float]] = {}
        self.uploads: dict[str, dict[str, Any]] = {}
        self.lock = threading.RLock()

    def __enter__(self) -> KaggleServer:
        class Server(ThreadingHTTPServer):
            daemon_threads = True
            def handle_error(self, request: Any, client_address: Any) -> None: pass     # injected hang-ups

        site = self
        handler = type("Handler", (Handler,), {"site": site})
        self.http = Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def count(self, name: str) -> int: return sum(name in request for request in self.requests)

    def fault(self, name: str) -> dict[str, Any]:
        with self.lock:
            for fault in self.faults:
                if fault["match"] in name and fault.setdefault("times", 1) > 0:
                    fault["times"] -= 1
                    return fault
        return {}

    # the methods of the service, by their names in the protocol ------------------------------------------------------
    def competition(self, request: dict[str, Any], user: str = "") -> Competition:
        found = self.competitions.get(request.get("competitionName", ""))
        if found is None: raise Refused(404, "Competition not found")
        if user and user not in found.entrants: raise Refused(403, RULES)
        return found

    def IntrospectToken(self, request: dict[str, Any], user: str) -> Any:
        name = self.tokens.get(request.get("token", ""))
        if name is None: raise Refused(404, "token not found")
        return {"active": True, "username": name, "userId": 1, "exp": int(time.time()) + 3600}

    def ListCompetitions(self, request: dict[str, Any], user: str) -> Any:
        return {"competitions": [{"id": n, "ref": f"https://www.kaggle.com/competitions/{slug}", "title": slug}
                                 for n, slug in enumerate(self.competitions) if request.get("search", "") in slug]}

    def ListDataFiles(self, request: dict[str, Any], user: str) -> Any:
        found = self.competition(request)
        names, size = sorted(found.files), int(request.get("pageSize") or 20)
        start = int(request.get("pageToken") or 0)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(found.modified))
        return {"files": [{"name": n, "ref": n, "totalBytes": len(found.files[n]), "creationDate": stamp}
                          for n in names[start:start + size]],
                "nextPageToken": str(start + size) if start + size < len(names) else ""}

    def DownloadDataFiles(self, request: dict[str, Any], user: str) -> Any:
        found = self.competition(request, user)
        content = found.zipped()
        key = hashlib.md5(content).hexdigest()
        self.blobs[key] = content, found.modified
        return f"/blob/{key}/archive.zip?sig=signed-link-secret"

    def StartSubmissionUpload(self, request: dict[str, Any], user: str) -> Any:
        self.competition(request, user)
        token = hashlib.sha1(repr((request, time.time())).encode()).hexdigest()
        self.uploads[token] = {"name": request["fileName"], "size": int(request["contentLength"]), "content": b""}
        return {"token": token, "createUrl": f"BASE/upload/{token}"}

    def sent_today(self, slug: str, user: str) -> int:
        return sum(s["slug"] == slug and s["user"] == user for s in self.submissions)

    def GetSubmissionLimits(self, request: dict[str, Any], user: str) -> Any:
        found = self.competition(request)
        sent = self.sent_today(found.slug, user)
        return {"numToday": sent, "numTotal": sent, "numAllowedNow": max(0, found.max_daily - sent)}

    def CreateSubmission(self, request: dict[str, Any], user: str) -> Any:
        found, upload = self.competition(request, user), self.uploads.get(request["blobFileTokens"])
        if upload is None or len(upload["content"]) != upload["size"]: raise Refused(400, "Invalid upload token")
        if self.sent_today(found.slug, user) >= found.max_daily:
            raise Refused(400, "Your team has used its daily Submission allowance")
        new = {"ref": 50_000_000 + len(self.submissions), "slug": found.slug, "user": user, "fileName": upload["name"],
               "date": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()), "content": upload["content"],
               "description": request.get("submissionDescription", ""), "ready": time.time() + found.delay}
        try: new["scores"] = found.score(upload["content"])
        except ValueError as error: new["error"] = str(error)
        self.submissions.append(new)
        return {"message": f"Successfully submitted to {found.slug}", "ref": new["ref"]}

    def view(self, item: dict[str, Any]) -> dict[str, Any]:
        shown = {name: item[name] for name in ("ref", "fileName", "date", "description")} | {"status": "PENDING"}
        if time.time() < item["ready"]: return shown
        if "error" in item: return shown | {"status": "ERROR", "errorDescription": item["error"]}
        public, private = item["scores"]
        ended = self.competitions[item["slug"]].ended
        return shown | {"status": "COMPLETE", "publicScore": f"{public:.5f}",
                        "privateScore": f"{private:.5f}" if ended else ""}

    def ListSubmissions(self, request: dict[str, Any], user: str) -> Any:
        slug = self.competition(request, user).slug
        mine = [s for s in reversed(self.submissions) if (s["slug"], s["user"]) == (slug, user)]
        return {"submissions": [self.view(item) for item in mine]}

    def GetSubmission(self, request: dict[str, Any], user: str) -> Any:
        for item in self.submissions:
            if item["ref"] == request.get("ref") and item["user"] == user: return self.view(item)
        raise Refused(404, "Submission not found")

    def GetLeaderboard(self, request: dict[str, Any], user: str) -> Any:
        best: dict[str, dict[str, Any]] = {}
        for item in self.submissions:
            if item["slug"] == self.competition(request).slug and "scores" in item:
                if item["user"] not in best or item["scores"] > best[item["user"]]["scores"]: best[item["user"]] = item
        rows = sorted(best.items(), key=lambda row: row[1]["scores"], reverse=True)
        return {"submissions": [{"teamId": n, "teamName": name, "submissionDate": item["date"],
                                 "score": f"{item['scores'][0]:.5f}"} for n, (name, item) in enumerate(rows, 1)]}


class Handler(BaseHTTPRequestHandler):
    "HTTP: service calls by POST, downloads with ranges by GET, resumable uploads by PUT."
    protocol_version = "HTTP/1.1"
    site: KaggleServer

    def log_message(self, *_: object) -> None: pass

    def body(self) -> bytes: return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status: int, content: bytes | dict[str, Any] = b"", headers: dict[str, str] | None = None) -> None:
        kind = "application/octet-stream"
        if isinstance(content, dict): kind, content = "application/json", json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def user(self) -> str:
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind == "Basic":
            name, _, key = base64.b64decode(value).decode().partition(":")
            if self.site.users.get(name) == key: return name
        if kind == "Bearer" and value in self.site.tokens: return self.site.tokens[value]
        raise Refused(401, "Unauthenticated")

    def handle_request(self, name: str, serve: Callable[[dict[str, Any]], None]) -> None:
        self.site.requests.append(name)
        fault = self.site.fault(name)
        try:
            if "silent" in fault: time.sleep(fault["silent"])
            if not fault.get("after"): self.fail(fault)
            serve(fault)
        except Refused as error:
            self.reply(error.status, {"code": error.status, "message": error.message}, error.headers)
        except (BrokenPipeError, ConnectionResetError): pass

    def fail(self, fault: dict[str, Any]) -> None:
        if "status" in fault:
            if self.command == "PUT": self.body()
            after = {"Retry-After": str(fault["retry_after"])} if "retry_after" in fault else {}
            raise Refused(fault["status"], fault.get("message", f"injected {fault['status']}"), after)
        if fault.get("garbage"):
            self.reply(200, b"<html>We will be right back</html>", {"Content-Type": "text/html"})
            raise BrokenPipeError
        if fault.get("drop"):
            self.hang_up()
            raise BrokenPipeError

    def do_POST(self) -> None:
        match = re.search(r"/v1/[\w.]+/(\w+)$", urlsplit(self.path).path)
        name, request = match[1] if match else "?", json.loads(self.body() or b"{}")

        def serve(fault: dict[str, Any]) -> None:
            method = getattr(self.site, name, None)
            if method is None: raise Refused(501, f"{name} is not part of this server")
            user = "" if name == "IntrospectToken" else self.user()
            with self.site.lock: answer = method(request, user)
            self.fail(fault)        # an `after` fault: it is done, but the client does not hear of it
            base = f"http://{self.headers['Host']}"
            if isinstance(answer, str): self.reply(302, b"", {"Location": base + answer})
            else: self.reply(200, json.loads(json.dumps(answer).replace("BASE", base)))

        self.handle_request(name, serve)

    def do_GET(self) -> None:
        def serve(fault: dict[str, Any]) -> None:
            key = urlsplit(self.path).path.split("/")[2]
            if key not in self.site.blobs: raise Refused(404, "Not found")
            (content, modified), start = self.site.blobs[key], 0
            headers = {"Accept-Ranges": "bytes", "ETag": f'"{key}"', "Last-Modified": formatdate(modified, usegmt=True)}
            wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if wanted and self.headers.get("If-Range", headers["ETag"]) == headers["ETag"]:
                start = int(wanted[1])
                self.site.ranges.append(wanted[0])
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if "cut" not in fault: return self.reply(206 if start else 200, content[start:], headers)
            self.send_response(206 if start else 200)
            headers["Content-Length"] = str(len(content) - start)
            for name, value in headers.items(): self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[start:start + fault["cut"]])
            self.wfile.flush()
            self.hang_up()

        self.handle_request("GET blob", serve)

    def do_PUT(self) -> None:
        def serve(fault: dict[str, Any]) -> None:
            upload = self.site.uploads.get(unquote(self.path).rsplit("/", 1)[-1])
            if upload is None: raise Refused(404, "Upload session expired")
            part = re.fullmatch(r"bytes (?:\*|(\d+)-\d+)/\d+", self.headers.get("Content-Range") or "")
            if part and part[1] is None:        # how much has arrived?
                if len(upload["content"]) == upload["size"]: return self.reply(200, {})
                last = {"Range": f"bytes=0-{len(upload['content']) - 1}"} if upload["content"] else {}
                return self.reply(308, b"", last)
            expected = int(self.headers.get("Content-Length") or 0)
            kept = upload["content"][:int(part[1])] if part else b""
            upload["content"] = kept + self.rfile.read(min(expected, fault.get("cut", expected)))
            if "cut" in fault: return self.hang_up()
            self.reply(200, {})

        self.handle_request("PUT upload", serve)
