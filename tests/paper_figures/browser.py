"""A headless Chromium driven over the WebDriver protocol, with the standard library alone."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
ALT, DOWN, ENTER = "\ue00a", "\ue015", "\ue007"


class Browser:
    """One window."""

    def __init__(self, base: str, session: str) -> None:
        self._base, self._session = base, session

    def open(self, page: Path) -> None:
        self._send("POST", "url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        return self._send("POST", "execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def focus(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).focus()", selector)

    def type(self, keys: str, *, hold: str = "") -> None:
        """Press keys one by one in whatever has the focus, while another is held."""
        actions = [{"type": "keyDown", "value": hold}] if hold else []
        for key in keys:
            actions += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        actions += [{"type": "keyUp", "value": hold}] if hold else []
        self._send("POST", "actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def emulate(self, *, width: int, height: int = 800, dark: bool = False) -> None:
        """A screen of this width in CSS pixels, and the wish for a dark or a light page."""
        self._chromium(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        wish = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._chromium("Emulation.setEmulatedMedia", {"features": [wish]})

    def complaints(self) -> list[str]:
        """What the page wrote to the console as an error or a warning."""
        found = self._send("POST", "se/log", {"type": "browser"})
        return [str(entry["message"]) for entry in found if entry["level"] in ("SEVERE", "WARNING")]

    def _chromium(self, command: str, parameters: dict[str, Any]) -> None:
        self._send("POST", "goog/cdp/execute", {"cmd": command, "params": parameters})

    def _send(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        return request(method, f"{self._base}/session/{self._session}/{path}", content)


def request(method: str, url: str, content: dict[str, Any] | None = None) -> Any:
    body = None if content is None else json.dumps(content).encode()
    asked = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": "application/json"})
    # No proxy: the driver is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(asked, timeout=60) as answer:
        return json.loads(answer.read())["value"]


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A driver on a free port, and a window with a new profile."""
    assert DRIVER is not None
    assert CHROMIUM is not None
    said = profile / "port"
    profile.mkdir(parents=True)
    with said.open("w+b") as log:
        driver = subprocess.Popen([DRIVER, "--port=0"], stdout=log, stderr=subprocess.STDOUT)
        try:
            base = f"http://127.0.0.1:{_port(said)}"
            options = {"binary": CHROMIUM, "args": [*ARGUMENTS, f"--user-data-dir={profile / 'data'}"]}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            session = request("POST", f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            try:
                yield Browser(base, session)
            finally:
                with suppress(OSError):
                    request("DELETE", f"{base}/session/{session}")
        finally:
            driver.terminate()
            driver.wait(timeout=20)


def _port(said: Path) -> int:
    """The port that the driver says it listens on."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = re.search(r"started successfully on port (\d+)\.", said.read_text(encoding="utf-8", errors="replace"))
        if found is not None:
            return int(found[1])
        time.sleep(0.05)
    raise TimeoutError(f"chromedriver did not say its port: {said.read_text(encoding='utf-8', errors='replace')}")
