"""What must never happen in the console, in a real browser: slowness, harm by hostile answers, pages that some cannot
use.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from kit.console_page import ANSWER, CHROMIUM, DONE, KEY, MARKDOWN, last_answer, new_page, send
from kit.http_server import RunningServer, serving
from kit.reciting_backend import RecitingBackend

from rowspan.config import ServerConfig

playwright = pytest.importorskip("playwright.sync_api", reason="playwright: not installed")
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium: not installed"),
]


def test_it_is_there_at_once(browser: Any, console: RunningServer) -> None:
    page, faults = next(new_page(browser, console))
    page.goto(console.url)
    page.wait_for_selector("#prompt:focus")
    assert page.evaluate("performance.now()") < 1500, "milliseconds, on loopback"
    assert not faults
    page.context.close()


HOSTILE = """<script>window.hacked = 1</script>

<img src=x onerror="window.hacked = 2"> <svg onload="window.hacked = 3"></svg>
<iframe srcdoc="<script>1</script>"></iframe>

[click](javascript:window.hacked=4) [data](data:text/html,<script>1</script>) ![pixel](https://evil.example/pixel.png)
<style>body { display: none }</style> <a href="https://evil.example" onclick="window.hacked = 5">x</a>

$\\href{javascript:window.hacked=6}{x}$
$$\\htmlData{onclick=window.hacked=7}{x} \\unicode{x}$$
$\\color{red;background:url(//evil.example)} y$

```html"><img src=x onerror=window.hacked=8>
<script>window.hacked = 9</script>
```

| <img src=x onerror=window.hacked=10> | b |
| --- | --- |
| <b>x</b> | [y](vbscript:x) |

<math><mtext><mglyph><style><img src=x onerror=window.hacked=11></style></mglyph></mtext></math>
"""


def test_hostile_answers_do_nothing(page: Any, reciting: RecitingBackend) -> None:
    """The fixture also fails for a broken policy, or a request to another host."""
    for text in (HOSTILE, f"<think>{HOSTILE}</think>{HOSTILE}"):
        reciting.text = text
        send(page, HOSTILE)
    page.wait_for_timeout(500)
    assert page.evaluate("window.hacked") is None
    assert page.locator(".message :is(script, img, iframe, style, svg:not(.icon), object, form)").count() == 0
    links = page.eval_on_selector_all(".message a", "all => all.map((each) => each.href)")
    assert links
    assert all(link.startswith("https://evil.example") for link in links)
    assert "<script>window.hacked = 1</script>" in last_answer(page), "it is shown as what it is"
    page.reload()
    page.wait_for_selector(DONE)
    assert page.evaluate("window.hacked") is None


def test_an_answer_of_20000_tokens_stays_responsive(page: Any, reciting: RecitingBackend) -> None:
    paragraph = "The quick brown fox jumps over the lazy dog, and **then** again with `code`, for ever and ever. "
    code = "```python\n" + "".join(f"value_{n} = compute({n}, flag=True)  # step {n}\n" for n in range(400)) + "```\n"
    parts = [f"## Part {n}\n\n{paragraph * 6}\n\n- one\n- two\n\n{code if n % 8 == 0 else ''}" for n in range(33)]
    reciting.text, reciting.pause = "\n".join(parts), 0.0005
    send(page, "Everything, please", wait=False)
    page.wait_for_selector(DONE, timeout=120_000)
    playwright.expect(page.locator(f"{ANSWER} .figures")).to_contain_text(re.compile(r"2\d,\d\d\d tokens"))
    slow = sorted(page.evaluate("longTasks"))
    assert not slow or slow[-1] < 100, slow[-10:]


def test_a_conversation_of_200_messages_scrolls_smoothly(page: Any, console: RunningServer) -> None:
    messages = [
        {
            "id": f"m{n}",
            "parent": f"m{n - 1}" if n else None,
            "role": ("user", "assistant")[n % 2],
            "content": f"Message {n}\n\n" + MARKDOWN * (n % 2),
        }
        for n in range(200)
    ]
    with console.client() as http:
        exported = {"id": "long", "title": "Long", "leaf": "m199", "messages": messages}
        assert http.post("/console/api/import", json=[exported]).json() == {"imported": 1}
    page.goto(f"{console.url}/#/chat/long")
    page.wait_for_selector("text=Message 199")
    page.wait_for_timeout(1000)
    page.evaluate("longTasks.length = 0")
    page.mouse.move(700, 400)
    for _ in range(60):
        page.mouse.wheel(0, -500)
        page.wait_for_timeout(16)
    slow = page.evaluate("longTasks")
    assert not slow or max(slow) < 100, slow


def test_sign_in(browser: Any, reciting: RecitingBackend) -> None:
    with serving(reciting, ServerConfig(api_keys=frozenset({KEY}))) as guarded:
        page, faults = next(new_page(browser, guarded))
        page.goto(guarded.url)
        page.fill("#key", "wrong")
        page.press("#key", "Enter")
        page.wait_for_selector(".refusal >> text=does not accept")
        page.fill("#key", KEY)
        page.press("#key", "Enter")
        page.wait_for_selector("#prompt")
        send(page, "Hello")
        assert last_answer(page) == "Hello."
        assert KEY not in json.dumps(page.evaluate("[document.cookie, {...localStorage}, {...sessionStorage}]"))
        page.reload()
        page.wait_for_selector(DONE)
        page.click("[aria-label='More']")
        page.click("[role=menuitem]:has-text('Sign out')")
        page.wait_for_selector("#key")
        assert not faults
        page.context.close()


@pytest.mark.parametrize(("locale", "words"), [("en-US", "What is on your mind?"), ("zh-CN", "想聊点什么？")])
def test_languages(browser: Any, console: RunningServer, locale: str, words: str) -> None:
    page, faults = next(new_page(browser, console, locale=locale))
    page.goto(console.url)
    page.wait_for_selector(f"text={words}")
    for name in ("rig", "models", "bench", "metrics"):
        page.goto(f"{console.url}/#/{name}")
        page.wait_for_selector(".panel")
    assert not faults
    page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_and_can_be_read(
    browser: Any, console: RunningServer, reciting: RecitingBackend, theme: str, width: int
) -> None:
    """Nothing sticks out of a page, and axe, where it is installed, has no serious findings."""
    page, faults = next(new_page(browser, console, color_scheme=theme, viewport={"width": width, "height": 844}))
    reciting.text = f"<think>Hm.</think>{MARKDOWN}{'longword' * 60}"
    page.goto(console.url)
    page.wait_for_selector("#prompt")
    send(page, "unbreakable" * 40)
    conversation = page.evaluate("location.hash")
    for place in (conversation, "#/rig", "#/models", "#/bench", "#/metrics"):
        page.goto(f"{console.url}/{place}")
        page.wait_for_selector(".message, .panel")
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place
        for finding in serious_findings(page):
            raise AssertionError(f"{place}: {finding}")
    assert not faults
    page.context.close()


def serious_findings(page: Any) -> list[str]:
    """What axe finds wrong with a page; nothing where it is not installed."""
    try:
        import axe_playwright_python
    except ImportError:
        return []
    script = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8")
    page.evaluate(script)
    found = page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa']})")
    return [
        f"{each['id']}: {[node['html'][:120] for node in each['nodes'][:3]]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]
