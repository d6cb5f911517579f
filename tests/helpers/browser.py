"""A page in headless Chromium, over its DevTools protocol."""

import base64
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
)
ADDRESS = re.compile(r"DevTools listening on (ws://\S+)")
WAIT = 60  # seconds for an answer


class Page:
    """One page, and what it did: errors in its console, and addresses that it asked for.

    Attributes:
        errors: exceptions, and messages at the level of warnings and above.
        requests: addresses other than data: URIs.
    """

    def __init__(self, socket: ClientConnection, session: str) -> None:
        self.socket, self.session, self.numbers = socket, session, itertools.count(1000)
        self.errors: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # as if its window were in front

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "sessionId": self.session, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=WAIT))
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(params["exceptionDetails"]["exception"].get("description", str(params)))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.errors.append(str([each.get("value", each.get("description")) for each in params["args"]]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Network.requestWillBeSent" if not params["request"]["url"].startswith(("data:", "blob:")):
                self.requests.append(params["request"]["url"])

    def show(self, width: int, *, height: int = 900, dark: bool = False, media: str = "") -> None:
        """Set the size of the window and what style sheets ask for."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme], media=media)

    def open(self, file: Path) -> None:
        """Load a file and wait until the page says that its charts are drawn."""
        self.call("Page.navigate", url=file.resolve().as_uri())
        self.evaluate("new Promise(done => { if (document.readyState === 'complete') done(); else onload = done; })")
        self.evaluate("window.drawn")

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page, after its promise is kept."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key, which may write a text."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def picture(self, file: Path) -> None:
        """Write a PNG of the whole page."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def open_browser(folder: Path) -> Iterator[Page]:
    """Start Chromium with its profile in a folder, and end it."""
    assert CHROMIUM, "no Chromium"
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr
            address = next(match[1] for line in process.stderr if (match := ADDRESS.search(line)))
            with connect(address, max_size=None, proxy=None) as socket:
                yield new_page(socket)
        finally:
            process.terminate()
            process.communicate(timeout=WAIT)


def new_page(socket: ClientConnection) -> Page:
    """An empty page of a browser."""

    def ask(number: int, method: str, **params: Any) -> dict[str, Any]:
        socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (message := json.loads(socket.recv(timeout=WAIT))).get("id") != number:
            pass
        return message["result"]

    target = ask(1, "Target.createTarget", url="about:blank")["targetId"]
    return Page(socket, ask(2, "Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
