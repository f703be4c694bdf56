"""The local Kaggle with datasets and notebooks: what a code competition needs, for tests with the real client.

`server.runner(kernel, folder)` is what a notebook does: it gets the request that saved the kernel and the folder with
the unpacked dataset, and returns the file it wrote and its log; an exception is a notebook that failed.
"""
from __future__ import annotations

import io
import json
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kaggle_server import Competition, KaggleServer, Refused


def log_of(*lines: str, stream: str = "stdout") -> str:
    "A log as Kaggle keeps it."
    return json.dumps([{"stream_name": stream, "time": n, "data": f"{line}\n"} for n, line in enumerate(lines)])


class CodeServer(KaggleServer):
    "Kaggle with datasets, kernels and submissions of kernels."

    def __init__(self, *competitions: Competition, runner: Callable[[dict[str, Any], Path], tuple[bytes, str]]):
        super().__init__(*competitions)
        self.runner = runner
        self.datasets: dict[str, list[dict[str, Any]]] = {}     # versions: notes and files
        self.kernels: dict[str, list[dict[str, Any]]] = {}      # versions: the request, status, output and log
        self.ready_after = 0        # questions about a dataset until it is ready
        self.dataset_fails = False

    # blobs and datasets -----------------------------------------------------------------------------------------------
    def StartBlobUpload(self, request: dict[str, Any], user: str) -> Any:
        token = f"blob-{len(self.uploads)}"
        self.uploads[token] = {"name": request["name"], "size": int(request["contentLength"]), "content": b""}
        return {"token": token, "createUrl": f"BASE/upload/{token}"}

    def files(self, request: dict[str, Any]) -> dict[str, bytes]:
        found = [self.uploads.get(item["token"]) for item in request.get("files") or []]
        if not all(upload and len(upload["content"]) == upload["size"] for upload in found):
            raise Refused(400, "Invalid or incomplete upload token")
        return {upload["name"]: upload["content"] for upload in found}

    def versions(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        name = f"{request['ownerSlug']}/{request['datasetSlug']}"
        if name not in self.datasets: raise Refused(403, "Permission 'datasets.get' was denied")
        return self.datasets[name]

    def CreateDataset(self, request: dict[str, Any], user: str) -> Any:
        name = f"{request['ownerSlug']}/{request['slug']}"
        if name in self.datasets: return {"status": "error", "error": "slug in use"}
        self.datasets[name] = [{"notes": "Initial release", "files": self.files(request), "asked": 0,
                                "private": request.get("isPrivate")}]
        return {"ref": f"/{name}", "url": f"https://www.kaggle.com/datasets/{name}", "status": "ok"}

    def CreateDatasetVersion(self, request: dict[str, Any], user: str) -> Any:
        versions, body = self.versions(request), request["body"]
        versions.append({"notes": body.get("versionNotes", ""), "files": self.files(body), "asked": 0})
        return {"ref": request["datasetSlug"], "url": "https://www.kaggle.com/datasets/x", "status": "ok"}

    def GetDatasetStatus(self, request: dict[str, Any], user: str) -> Any:
        newest = self.versions(request)[-1]
        newest["asked"] += 1
        if self.dataset_fails: return {"status": "FAILED"}
        return {"status": "READY" if newest["asked"] > self.ready_after else "BLOBS_RECEIVED"}

    def GetDataset(self, request: dict[str, Any], user: str) -> Any:
        versions = self.versions(request)
        return {"id": 1, "ref": f"{request['ownerSlug']}/{request['datasetSlug']}", "title": request["datasetSlug"],
                "currentVersionNumber": len(versions),
                "versions": [{"versionNumber": n, "versionNotes": version["notes"], "creatorName": user}
                             for n, version in enumerate(versions, 1)]}

    # kernels ----------------------------------------------------------------------------------------------------------
    def SaveKernel(self, request: dict[str, Any], user: str) -> Any:
        missing = [name for name in request.get("datasetDataSources", []) if name not in self.datasets]
        kernel = {**request, "status": "RUNNING", "output": None, "log": ""}
        self.kernels.setdefault(request["slug"], []).append(kernel)
        threading.Thread(target=self.run, args=[kernel], daemon=True).start()
        return {"ref": f"/code/{request['slug']}", "url": f"https://www.kaggle.com/code/{request['slug']}",
                "versionNumber": len(self.kernels[request["slug"]]), "invalidDatasetSources": missing}

    def run(self, kernel: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name in kernel.get("datasetDataSources", []):
                for file, content in self.datasets.get(name, [{"files": {}}])[-1]["files"].items():
                    if not file.endswith(".zip"): (Path(folder) / file).write_bytes(content)
                    else: zipfile.ZipFile(io.BytesIO(content)).extractall(Path(folder) / file[:-4])
            try: kernel["output"], kernel["log"] = self.runner(kernel, Path(folder))
            except Exception as error: kernel["failed"], kernel["log"] = True, str(error)
        kernel["status"] = "ERROR" if kernel.get("failed") else "COMPLETE"

    def kernel(self, request: dict[str, Any]) -> dict[str, Any]:
        versions = self.kernels.get(f"{request['userName']}/{request['kernelSlug']}")
        if not versions: raise Refused(404, "Kernel not found")
        label = str(request.get("versionLabel") or f"v{len(versions)}")
        return versions[int(label[1:]) - 1]

    def GetKernelSessionStatus(self, request: dict[str, Any], user: str) -> Any:
        kernel = self.kernel(request)
        return {"status": kernel["status"], "failureMessage": "the notebook failed" if kernel.get("failed") else ""}

    def ListKernelSessionOutput(self, request: dict[str, Any], user: str) -> Any:
        return {"files": [], "log": self.kernel(request)["log"]}

    def GetKernel(self, request: dict[str, Any], user: str) -> Any:
        kernel = self.kernel(request)
        name = f"{request['userName']}/{request['kernelSlug']}"
        return {"metadata": {"ref": name, "currentVersionNumber": len(self.kernels[name])},
                "blob": {"source": kernel["text"], "slug": request["kernelSlug"]}}

    # submissions ------------------------------------------------------------------------------------------------------
    def CreateCodeSubmission(self, request: dict[str, Any], user: str) -> Any:
        found = self.competition(request, user)
        name, version = f"{request['kernelOwner']}/{request['kernelSlug']}", int(request.get("kernelVersion") or 0)
        if not 0 < version <= len(self.kernels.get(name, [])): raise Refused(404, "Kernel version not found")
        kernel = self.kernels[name][version - 1]
        if kernel["status"] != "COMPLETE": raise Refused(400, "The notebook is not done")
        token = f"kernel-{name}-{version}-{time.monotonic_ns()}"
        output = kernel["output"]
        self.uploads[token] = {"name": request.get("fileName", ""), "size": len(output), "content": output}
        return self.CreateSubmission({**request, "competitionName": found.slug, "blobFileTokens": token}, user)
