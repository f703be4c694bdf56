"""A real JupyterLab or Notebook 7 on the loopback, and a page object for a notebook that is open in it.

    server = LabServer(folder)                      # its settings, workspaces and kernels are its own
    server.wait()
    notebook = NotebookPage(browser.new_page(), server, shots)
    notebook.open("one.ipynb", "x = 1", "print(x)")
    notebook.run_all()
    assert notebook.text(1) == "1" and notebook.value("x") == 1
    server.stop()

Two things keep such tests stable. The page is driven through `window.jupyterapp`, the application behind the page,
and not by key presses. Nothing waits for a fixed time: `wait`, `expect` and `until` watch for what shall happen.
"""
from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import ProxyHandler, build_opener

import nbformat

if TYPE_CHECKING:  # the module must be importable without playwright, to say that it is missing
    from playwright.sync_api import Locator, Page

CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
                  "--disable-background-networking", "--disable-component-update", "--disable-sync",
                  "--force-color-profile=srgb"]
SCRIPT = Path(__file__).with_name("lab.js")     # `window.lab`: what is asked of the page
LIGHT, DARK = "JupyterLab Light", "JupyterLab Dark"


def find_chromium() -> str | None:
    "The path of an installed Chromium; none is ever downloaded."
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


def missing() -> str:
    "What has to be installed before a browser test can run; empty if nothing."
    needed = ("jupyterlab", "notebook", "playwright", "ipywidgets")
    wanted = [f"pip install {name}" for name in needed if find_spec(name) is None]
    if find_chromium() is None: wanted.append("apt-get install chromium (or another system's package of Chromium)")
    return f"a browser test needs: {'; '.join(wanted)}" if wanted else ""


def until(holds: Callable[[], Any], what: str, timeout: float = 30) -> Any:
    "Ask again and again until the answer is true, and return it. Raises `TimeoutError` after `timeout` seconds."
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if answer := holds(): return answer
        time.sleep(0.05)
    raise TimeoutError(f"waited {timeout} s in vain for {what}")


class LabServer:
    "JupyterLab in a process of its own. Its kernels run this interpreter; nothing of the user's settings is read."
    app, address = "lab", "doc/tree"    # the command, and where a notebook opens alone
    own_errors: tuple[str, ...] = ()    # parts of what an empty notebook reports to the browser

    def __init__(
        self,
        root: Path,     # the folder whose notebooks it serves
    ):
        self.root, self.token, self.port = root, "browser-test", _free_port()
        self.home = Path(tempfile.mkdtemp(prefix="jupyterlab-"))
        self._quiet()
        self.log = (self.home / "server.log").open("w")
        self.process = subprocess.Popen(self._command(), env=self._environment(), stdout=self.log, stderr=self.log)

    def _quiet(self) -> None:
        "Switch off the question about news and the look for updates: a dialog, and a request to the network."
        folder = self.home / "settings" / "@jupyterlab" / "apputils-extension"
        folder.mkdir(parents=True)
        (folder / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "jupyter", self.app, "--no-browser", "--allow-root", "--ip=127.0.0.1",
                f"--port={self.port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={self.token}",
                f"--ServerApp.root_dir={self.root}", "--ServerApp.terminals_enabled=False",
                "--expose-app-in-browser", "--LabApp.extension_manager=readonly"]

    def _environment(self) -> dict[str, str]:
        own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
               "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
               "IPYTHONDIR": "ipython"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_"))}
        return kept | {name: str(self.home / folder) for name, folder in own.items()}

    def said(self) -> str:
        "What the server has written to its log."
        return (self.home / "server.log").read_text(errors="replace")

    def wait(self, timeout: float = 180) -> None:
        "Return once it answers. Raises `RuntimeError` with its log if it ended instead."
        opener = build_opener(ProxyHandler({}))     # a proxy of the machine is not for the loopback

        def answers() -> bool:
            if self.process.poll() is not None: raise RuntimeError(f"jupyter {self.app} ended:\n{self.said()}")
            try: return bool(opener.open(f"http://127.0.0.1:{self.port}/api?token={self.token}", timeout=5).read())
            except OSError: return False

        until(answers, f"jupyter {self.app} to answer", timeout)

    def url(self, name: str) -> str:
        "Where a notebook opens alone, without side panels and without what was open before."
        return f"http://127.0.0.1:{self.port}/{self.address}/{name}?reset&token={self.token}"

    def stop(self) -> None:
        "End the server, which ends its kernels."
        self.process.terminate()
        try: self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.home, ignore_errors=True)


class Notebook7Server(LabServer):
    "Jupyter Notebook 7, which is made of JupyterLab's parts."
    app, address = "notebook", "notebooks"
    own_errors = ("(reading 'schema')",)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class NotebookPage:
    "A notebook that is open in a browser. Cells are counted from 0, code cells only."

    def __init__(
        self,
        page: Page,             # an empty page of a browser
        server: LabServer,
        shots: Path,            # the folder for screenshots
    ):
        self.page, self.server, self.shots = page, server, shots
        self.path = server.root / "not-open.ipynb"
        self.console: list[str] = []        # the errors that the browser has reported
        page.add_init_script(path=SCRIPT)
        page.on("console", lambda said: self._report(f"{said.text} {said.location['url']}")
                if said.type == "error" else None)
        page.on("pageerror", lambda error: self._report(str(error)))
        self.cells = page.locator(".jp-Notebook .jp-CodeCell")

    def _report(self, error: str) -> None:
        if not any(known in error for known in self.server.own_errors): self.console.append(error)

    def open(
        self,
        name: str,              # the file's name, with .ipynb
        *cells: str,            # the code of each cell; without any, the file must be there
    ) -> NotebookPage:
        "Write a notebook, open it, and wait for its kernel."
        self.path = self.server.root / name
        if cells:
            spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
            code = [nbformat.v4.new_code_cell(cell) for cell in cells]
            nbformat.write(nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": spec}), self.path)
        self.page.goto(self.server.url(name))
        self.page.wait_for_function("() => lab.ready()", timeout=60_000)
        self.cells.first.wait_for()
        return self

    def run(self, index: int, wait: bool = True, timeout: float = 60) -> None:
        "Run one cell. With `wait=False`, return while it runs."
        self.page.evaluate("index => lab.run(index)", index)
        if wait: self.wait(index, timeout)

    def run_all(self, wait: bool = True, timeout: float = 60) -> None:
        "Run every cell, as the menu does. With `wait=False`, return while they run."
        self.page.evaluate("() => lab.run(null)")
        if wait: self.wait(self.cells.count() - 1, timeout)

    def running(self, index: int) -> bool:
        "Whether a cell that was started has not finished (or was never reached because one before it failed)."
        return not self.page.evaluate("index => lab.finished(index)", index)

    def wait(self, index: int, timeout: float = 60) -> None:
        "Return once a cell has finished, with or without an error. Raises `TimeoutError` with all outputs."
        try: until(lambda: not self.running(index), f"cell {index} to finish", timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; outputs: {[self.text(i) for i in range(self.cells.count())]}") from None

    def output(self, index: int) -> Locator:
        "What a cell shows."
        return self.cells.nth(index).locator(".jp-Cell-outputArea")

    def text(self, index: int) -> str:
        "What a cell shows, as text."
        return self.output(index).inner_text().strip()

    def python(self, code: str, aside: bool = False) -> str:
        """Run code in the kernel, outside any cell, and return what it prints. Raises `RuntimeError` with a traceback.

        It waits for a running cell to end. With `aside=True` it runs beside the cell, in a subshell (ipykernel 7)."""
        said = self.page.evaluate("call => lab.python(call)", [code, aside])
        if said["error"]: raise RuntimeError(said["error"])
        return said["text"]

    def value(self, expression: str, aside: bool = False) -> Any:
        "The value of a Python expression in the kernel, through JSON."
        return json.loads(self.python(f"import json as _json; print(_json.dumps({expression}))", aside))

    def until(self, expression: str, aside: bool = False, timeout: float = 30) -> None:
        "Wait for a Python expression to become true in the kernel."
        until(lambda: self.value(f"bool({expression})", aside), expression, timeout)

    def click(self, name: str) -> None:
        "Click the button of this name (a part of its label, or of its tooltip if it has no label)."
        self.page.get_by_role("button", name=name).first.click()

    def command(self, command: str, **arguments: Any) -> None:
        "Execute a command of JupyterLab and wait for its end."
        self.page.evaluate("call => lab.command(call)", [command, arguments])

    def interrupt(self) -> None:
        "What the stop button does."
        self.command("notebook:interrupt-kernel")

    def save(self) -> dict[str, Any]:
        "Save the notebook, and return what is in the file."
        self.page.evaluate("() => lab.save()")
        return json.loads(self.path.read_text(encoding="utf-8"))

    def shut_down(self) -> None:
        "End the kernel."
        self.page.evaluate("() => lab.shutDown()")

    def reopen(self) -> NotebookPage:
        "Save, end the kernel, and open the file again, as on the next day: outputs are those of the file."
        self.save()
        self.shut_down()
        return self.open(self.path.name)

    def theme(self, name: str) -> None:
        "Change to `LIGHT` or `DARK`."
        self.command("apputils:change-theme", theme=name)
        wanted = "true" if name == LIGHT else "false"
        self.page.locator(f"body[data-jp-theme-light='{wanted}']").wait_for(state="attached")

    def screenshot(self, name: str, of: Locator | None = None) -> Path:
        "A picture of the page, or of a part of it, in the folder for screenshots."
        path = self.shots / f"{name}.png"
        if of is None: self.page.screenshot(path=path)
        else: of.screenshot(path=path)
        return path
