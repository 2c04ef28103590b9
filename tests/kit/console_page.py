"""The console in Chromium: what a person does with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

from kit.http_server import RunningServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
KEY = "a-key"
ANSWER = ".message.assistant"
DONE = f"{ANSWER}[aria-busy=false]"
# Runs before a page's own scripts: notes tasks that keep the page from answering, in milliseconds.
WATCH_TASKS = """
window.longTasks = [];
new PerformanceObserver((list) => list.getEntries().forEach((each) => longTasks.push(each.duration)))
  .observe({type: "longtask", buffered: true});
"""
MARKDOWN = """# A title

Some *emphasis*, `code`, a [link](https://example.org) and $x^2$; it costs $5 or $6.

| a | b |
| - | -: |
| 1 | 2 |

- one
  - two
- [x] three

```python
def f(x):
    return x  # a comment
```

$$\\sum_{i=1}^n i = \\frac{n(n+1)}{2}$$
"""


def new_page(browser: Any, console: RunningServer, **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """A page in a context of its own, and what went wrong in it: exceptions, broken policies, requests elsewhere."""
    context = browser.new_context(**options)
    context.add_init_script(WATCH_TASKS)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda told: faults.append(told.text) if "Content Security Policy" in told.text else None)
    page.on("request", lambda made: None if made.url.startswith((console.url, "data:")) else faults.append(made.url))
    yield page, faults


def send(page: Any, text: str, *, wait: bool = True) -> None:
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")
    if wait:
        page.wait_for_selector(f"{DONE}:last-child")


def last_answer(page: Any) -> str:
    return str(page.inner_text(f"{ANSWER}:last-child .text"))


def tool(page: Any, label: str, message: str = ":last-child") -> None:
    page.hover(f".message{message}")
    page.click(f'.message{message} .tool[aria-label="{label}"]')
