"""A real Chromium behind its debugging pipe: pages at any width, light or dark, with everything they complain about."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import Any

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
                None)  # fmt: skip
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
         "--disable-background-networking", "--disable-extensions", "--remote-debugging-pipe",
         "--blink-settings=primaryHoverType=2,availableHoverTypes=2")  # fmt: skip
SECONDS = 60  # until an answer must be there

# Text whose contrast falls short of WCAG 2.1 AA: 4.5 to 1, or 3 to 1 from 24 pixels or 18.66 bold ones.
CONTRAST = """
(() => {
  const channels = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const [r, g, b, alpha = 1] = channels(getComputedStyle(each).backgroundColor);
      if (alpha === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const weak = [];
  for (const element of document.querySelectorAll("body *:not(script):not(style)")) {
    const spoken = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!spoken || !element.getClientRects().length) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const [one, other] = [channels(style.color).slice(0, 3), paper(element)].map(luminance);
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) weak.push(`${ratio.toFixed(2)} ${element.className} ${element.textContent.trim()}`);
  }
  return weak;
})()
"""

# Everything else that a screen reader or a keyboard would stumble over, one line each.
OBSTACLES = """
(() => {
  const found = [], all = (selector) => [...document.querySelectorAll(selector)];
  const report = (what, elements) => elements.forEach((each) => found.push(`${what}: ${each.outerHTML.slice(0, 120)}`));
  report("image without alt", all("img").filter((each) => !each.hasAttribute("alt")));
  report("empty alt outside the flip", all("img[alt='']:not(.flip .under)"));
  report("control without a label", all("input").filter((each) => !each.labels.length && !each.ariaLabel));
  report("table without caption", all("table").filter((each) => !each.caption));
  report("header without scope", all("th:not([scope])"));
  report("drawing that is read out", all("svg:not([aria-hidden='true'], [aria-hidden='true'] *, [role='img'])"));
  const named = (each) => document.getElementById(each.getAttribute("aria-labelledby"));
  report("name that is not there", all("[aria-labelledby]").filter((each) => !named(each)));
  report("link to nowhere", all("a[href^='#']").filter((each) => !document.querySelector(each.getAttribute("href"))));
  if (all("h1").length !== 1) found.push("not one h1");
  const levels = all("h1, h2, h3, h4, h5, h6").map((each) => Number(each.tagName[1]));
  if (levels.some((level, place) => level - (levels[place - 1] ?? 0) > 1)) found.push("a heading skips a level");
  if (!document.documentElement.lang || !document.title) found.push("no language or no title");
  if (new Set(all("[id]").map((each) => each.id)).size !== all("[id]").length) found.push("an id is there twice");
  for (const each of all("a, summary, input, button, [tabindex]")) {
    each.focus();
    const unseen = getComputedStyle(each).outlineStyle === "none";
    if (document.activeElement === each && unseen) report("unseen focus", [each]);
  }
  return found;
})()
"""
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


class Browser:
    """One tab; ``open`` a file, then ``value`` of JavaScript or a ``screenshot``."""

    def __init__(self, profile: Path) -> None:
        to_browser, from_browser = os.pipe(), os.pipe()

        def connect() -> None:
            # The browser reads from descriptor 3 and writes to 4; copies far above are not overwritten on the way.
            ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 100) for end in (to_browser[0], from_browser[1])]
            os.dup2(ends[0], 3), os.dup2(ends[1], 4)

        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"], preexec_fn=connect, close_fds=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser[0]), os.close(from_browser[1])
        self.writing, self.reading = to_browser[1], from_browser[0]
        self.buffer, self.number, self.session = b"", 0, None
        self.events: deque[dict[str, Any]] = deque()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to one command; what happens meanwhile is kept in ``events``."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        while (answer := self.message()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def message(self) -> dict[str, Any]:
        """The next message of the browser."""
        end = time.monotonic() + SECONDS
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.reading], [], [], max(0, end - time.monotonic()))
            found = os.read(self.reading, 1 << 20) if ready else b""
            assert found, "the browser does not answer"
            self.buffer += found
        text, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(text)

    def open(self, path: Path, *, width: int, dark: bool = False, script: bool = True) -> list[str]:
        """Load a file in a viewport; returns what it complained about and what it asked the network for."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.message())
        return [complaint for event in self.events if (complaint := complaint_of(event))]

    def value(self, expression: str) -> Any:
        """What JavaScript says about the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser."""
        self.session = None
        self.call("Browser.close")
        os.close(self.writing), os.close(self.reading)
        self.process.wait(timeout=SECONDS)


def complaint_of(event: dict[str, Any]) -> str:
    """A console message, an uncaught error or a request beyond the page itself; empty for everything else."""
    method, params = event.get("method"), event.get("params", {})
    if method == "Runtime.consoleAPICalled" or method == "Runtime.exceptionThrown":
        return json.dumps(params)
    if method == "Log.entryAdded":
        return params["entry"]["text"]
    url = params.get("request", {}).get("url", "file:") if method == "Network.requestWillBeSent" else "file:"
    return "" if url.startswith(("file:", "data:")) else f"requested {url}"
