"""The console in a real browser, over a backend that recites: what people do with it, and what must never happen."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit import reciting_backend
from kit.http_server import RunningServer, eventually, serving
from kit.reciting_backend import RecitingBackend

from rowspan.config import ServerConfig

playwright = pytest.importorskip("playwright.sync_api", reason="playwright: not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium: not installed"),
]

KEY = "a-key"
ANSWER = ".message.assistant"
DONE = f"{ANSWER}[aria-busy=false]"
# Runs before a page's own scripts: notes tasks that keep the page from answering, in milliseconds.
WATCH_TASKS = """
window.longTasks = [];
new PerformanceObserver((list) => list.getEntries().forEach((each) => longTasks.push(each.duration)))
  .observe({type: "longtask", buffered: true});
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def backend() -> RecitingBackend:
    return RecitingBackend()


@pytest.fixture
def server(backend: RecitingBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RunningServer]:
    monkeypatch.setenv("ROWSPAN_CONVERSATIONS", str(tmp_path / "conversations.sqlite"))
    with serving(backend, ServerConfig(reasoning_parser="think")) as running:
        yield running


@pytest.fixture
def page(browser: Any, server: RunningServer) -> Iterator[Any]:
    with_faults = new_page(browser, server)
    page, faults = next(with_faults)
    page.goto(server.url)
    page.wait_for_selector("#prompt")
    yield page
    assert not faults
    page.context.close()


def new_page(browser: Any, server: RunningServer, **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """A page in a context of its own, and what went wrong in it: exceptions, broken policies, requests elsewhere."""
    context = browser.new_context(**options)
    context.add_init_script(WATCH_TASKS)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda told: faults.append(told.text) if "Content Security Policy" in told.text else None)
    page.on("request", lambda made: None if made.url.startswith((server.url, "data:")) else faults.append(made.url))
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


def test_it_is_there_at_once(browser: Any, server: RunningServer) -> None:
    page, faults = next(new_page(browser, server))
    page.goto(server.url)
    page.wait_for_selector("#prompt:focus")
    assert page.evaluate("performance.now()") < 1500, "milliseconds, on loopback"
    assert not faults
    page.context.close()


def test_a_whole_conversation(page: Any, backend: RecitingBackend) -> None:
    backend.text = "First answer."
    send(page, "First question")
    assert last_answer(page) == "First answer."
    backend.text = "Second answer."
    tool(page, "Regenerate")
    page.wait_for_selector(f"{DONE} >> text=Second answer.")
    assert page.inner_text(".branches") == "2/2"
    tool(page, "Previous version")
    page.wait_for_selector(f"{DONE} >> text=First answer.")
    backend.text = "Third answer."
    tool(page, "Edit", ".user")
    page.fill(".editor textarea", "Edited question")
    page.press(".editor textarea", "Enter")
    page.wait_for_selector(f"{DONE} >> text=Third answer.")
    assert [said["content"] for said in backend.asked[-1]] == ["Edited question"]
    assert "first after" in page.inner_text(f"{ANSWER} .figures")
    backend.text, backend.pause = "one two three four five six " * 50, 0.05
    send(page, "Count", wait=False)
    page.wait_for_selector(f"{ANSWER}:last-child >> text=two three")
    page.keyboard.press("Escape")
    page.wait_for_selector(f"{DONE}:last-child >> text=stopped")
    stopped = last_answer(page)
    backend.text, backend.pause = " and the rest.", 0.0
    tool(page, "Continue")
    page.wait_for_selector(f"{DONE}:last-child >> text=and the rest.")
    assert last_answer(page).startswith(stopped.strip())
    assert backend.asked[-1][-1]["role"] == "assistant"
    before = page.inner_text(".log")
    page.reload()
    page.wait_for_selector(f"{ANSWER}:last-child >> text=and the rest.")
    kept = re.sub(r"\s+", " ", page.inner_text(".log"))
    assert kept == re.sub(r"\s+", " ", before)
    page.click(".message.user .tool[aria-label='Previous version']")
    page.wait_for_selector("text=First question")


def test_the_list_of_conversations(page: Any, backend: RecitingBackend) -> None:
    backend.text = "About whales."
    send(page, "Whales?")
    page.click(".new-chat")
    page.wait_for_selector(".welcome")
    backend.text = "About cats."
    send(page, "Cats?")
    entries = page.locator(".conversations li a span")
    assert entries.all_inner_texts() == ["Cats?", "Whales?"]
    page.fill("#search", "whales")
    page.wait_for_selector(".conversations li >> nth=0 >> text=Whales?")
    playwright.expect(entries).to_have_count(1)
    page.fill("#search", "")
    playwright.expect(entries).to_have_count(2)
    menu = '.conversations li:has-text("Whales?") .menu-button'
    page.hover('.conversations li:has-text("Whales?")')
    page.click(menu)
    page.click("[role=menuitem]:has-text('Rename')")
    page.fill("dialog input", "All about whales")
    page.press("dialog input", "Enter")
    page.wait_for_selector(".conversations >> text=All about whales")
    page.hover('.conversations li:has-text("whales")')
    page.click('.conversations li:has-text("whales") .menu-button')
    page.click("[role=menuitem]:has-text('Pin')")
    page.wait_for_selector("h2:has-text('Pinned')")
    assert entries.all_inner_texts() == ["All about whales", "Cats?"]
    page.hover('.conversations li:has-text("Cats?")')
    page.click('.conversations li:has-text("Cats?") .menu-button')
    page.click("[role=menuitem]:has-text('Delete')")
    page.click("dialog .danger-button")
    playwright.expect(entries).to_have_count(1)
    page.wait_for_selector(".welcome")


def test_two_tabs(page: Any, browser: Any, server: RunningServer, backend: RecitingBackend) -> None:
    backend.text, backend.pause = "slow " * 40, 0.05
    send(page, "In the first tab", wait=False)
    page.wait_for_selector(f"{ANSWER} >> text=slow slow")
    other = page.context.new_page()
    other.goto(server.url)
    other.click(".conversations >> text=In the first tab")
    other.wait_for_selector(".message.user >> text=In the first tab")
    backend.text, backend.pause = "quick", 0.0
    other.click(".new-chat")
    send(other, "In the second tab")
    assert last_answer(other) == "quick"
    page.wait_for_selector(DONE)
    assert last_answer(page).split() == ["slow"] * 40


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


def test_hostile_answers_do_nothing(page: Any, backend: RecitingBackend) -> None:
    """The fixture also fails for a broken policy, or a request to another host."""
    for text in (HOSTILE, f"<think>{HOSTILE}</think>{HOSTILE}"):
        backend.text = text
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


def test_markdown(page: Any, backend: RecitingBackend) -> None:
    backend.text, backend.pause = MARKDOWN, 0.01
    send(page, "Show me")
    answer = page.locator(f"{ANSWER} .markdown")
    page.wait_for_selector(".formula math")
    page.wait_for_selector(".code-block .hljs-keyword")
    assert answer.locator("h1").inner_text() == "A title"
    assert answer.locator("math").count() == 2
    assert answer.locator("math[display=block]").count() == 1
    assert "it costs $5 or $6" in answer.inner_text()
    assert answer.locator("table td").all_inner_texts() == ["1", "2"]
    assert answer.locator("li li").inner_text() == "two"
    assert answer.locator("pre code").inner_text() == "def f(x):\n    return x  # a comment"
    written = answer.inner_html()
    page.reload()
    page.wait_for_selector(".formula math")
    page.wait_for_selector(".code-block .hljs-keyword")
    assert answer.inner_html() == written, "in pieces as in one"


def test_reasoning_tokens_and_settings(page: Any, backend: RecitingBackend) -> None:
    page.click("[aria-label='Settings']")
    page.fill(".settings label:has-text('System prompt') textarea", "Be brief.")
    page.fill(".settings label:has-text('Temperature') input", "0.2")
    page.fill(".settings label:has-text('JSON schema') textarea", "{nonsense")
    page.check(".settings label:has-text('Token view') input")
    page.wait_for_selector(".settings .field .refusal")
    page.fill(".settings label:has-text('JSON schema') textarea", "")
    page.press(".settings label:has-text('JSON schema') textarea", "Tab")
    backend.text = "<think>Let me see.</think>It is so."
    send(page, "Why?")
    assert backend.asked[-1][0] == {"role": "system", "content": "Be brief."}
    assert last_answer(page) == "It is so."
    page.click(".reasoning summary")
    assert page.inner_text(".reasoning > div") == "Let me see."
    tool(page, "Token view")
    page.hover(".token >> nth=0")
    assert "60.7" in page.inner_text(".token-detail"), "percent: the exponential of -0.5"
    page.reload()
    page.wait_for_selector(DONE)
    page.click("[aria-label='Settings']")
    assert page.input_value(".settings label:has-text('System prompt') textarea") == "Be brief."


def test_two_settings_side_by_side(page: Any, backend: RecitingBackend) -> None:
    page.click("[aria-label='Settings']")
    page.check(".compare input[type=checkbox]")
    page.fill(".compare input[type=number]", "0.1")
    page.press(".compare input[type=number]", "Tab")
    page.click(".settings [aria-label='Close']")
    backend.text, backend.pause = "Twice told.", 0.02
    page.fill("#prompt", "Which is better?")
    page.press("#prompt", "Enter")
    playwright.expect(page.locator(f".pair {DONE}")).to_have_count(2)
    assert page.locator(".pair .text").all_inner_texts() == ["Twice told."] * 2
    assert "0.1" in page.inner_text(".pair .variant >> nth=1")
    page.click("text=Go on with this one")
    chosen = page.get_attribute(".pair .message >> nth=1", "data-message")
    playwright.expect(page.locator(".pair [aria-pressed=true]")).to_have_count(1)
    page.reload()
    playwright.expect(page.locator(f".pair {DONE}")).to_have_count(2)
    playwright.expect(page.locator(f".pair .message[data-message='{chosen}'] [aria-pressed=true]")).to_have_count(1)
    assert [said["content"] for said in backend.asked[-1]] == ["Which is better?"]


def test_attached_files(page: Any, backend: RecitingBackend) -> None:
    code = {"name": "a very long name of a file that nobody would ever write.py", "mimeType": "text/x-python"}
    page.set_input_files(".composer input[type=file]", [{**code, "buffer": b"print('hello')"}])
    page.wait_for_selector(".composer .files >> text=a very long name")
    send(page, "What is this?")
    assert "print('hello')" in str(backend.asked[-1][-1]["content"])
    assert page.inner_text(".message.user .text") == "What is this?"
    page.set_input_files(".composer input[type=file]", [{"name": "x.bin", "mimeType": "", "buffer": b"\xff\xfe\x00"}])
    page.wait_for_selector(".toast.error >> text=x.bin")


def test_the_server_is_killed_and_comes_back(browser: Any, tmp_path: Path) -> None:
    environment = {**os.environ, "ROWSPAN_CONVERSATIONS": str(tmp_path / "c.sqlite")}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, reciting_backend.__file__, str(port), "word " * 200]
    url = f"http://127.0.0.1:{port}"

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, env=environment)
        assert eventually(lambda: is_up(url), 30)
        return process

    process = start()
    page = browser.new_page()
    try:
        page.goto(url)
        page.wait_for_selector("#prompt")
        send(page, "Talk", wait=False)
        page.wait_for_selector(f"{ANSWER} >> text=word word")
        process.kill()
        process.wait()
        page.wait_for_selector(f"{ANSWER} .error >> text=cannot be reached")
        cut = last_answer(page)
        assert cut.startswith("word word")
        page.fill("#prompt", "Are you there?")
        page.press("#prompt", "Enter")
        page.wait_for_selector(".toast.error")
        assert page.input_value("#prompt") == "Are you there?", "what could not be sent is still there"
        assert page.locator(".message").count() == 2
        process = start()
        page.press("#prompt", "Enter")
        page.wait_for_selector(f"{ANSWER}:last-child >> text=word word")
        page.keyboard.press("Escape")
        page.wait_for_selector(f"{DONE}:last-child")
        page.reload()
        page.wait_for_selector(f"{DONE}:last-child")
        assert page.locator(".message").count() == 4, "what could not be kept at first was kept later"
        assert page.inner_text(f"{ANSWER} .text >> nth=0").strip() == cut.strip()
    finally:
        page.close()
        process.kill()
        process.wait()


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_an_answer_of_20000_tokens_stays_responsive(page: Any, backend: RecitingBackend) -> None:
    paragraph = "The quick brown fox jumps over the lazy dog, and **then** again with `code`, for ever and ever. "
    code = "```python\n" + "".join(f"value_{n} = compute({n}, flag=True)  # step {n}\n" for n in range(400)) + "```\n"
    parts = [f"## Part {n}\n\n{paragraph * 6}\n\n- one\n- two\n\n{code if n % 8 == 0 else ''}" for n in range(33)]
    backend.text, backend.pause = "\n".join(parts), 0.0005
    send(page, "Everything, please", wait=False)
    page.wait_for_selector(DONE, timeout=120_000)
    playwright.expect(page.locator(f"{ANSWER} .figures")).to_contain_text(re.compile(r"2\d,\d\d\d tokens"))
    slow = sorted(page.evaluate("longTasks"))
    assert not slow or slow[-1] < 100, slow[-10:]


def test_a_conversation_of_200_messages_scrolls_smoothly(page: Any, server: RunningServer) -> None:
    messages = [
        {
            "id": f"m{n}",
            "parent": f"m{n - 1}" if n else None,
            "role": ("user", "assistant")[n % 2],
            "content": f"Message {n}\n\n" + MARKDOWN * (n % 2),
        }
        for n in range(200)
    ]
    with server.client() as http:
        exported = {"id": "long", "title": "Long", "leaf": "m199", "messages": messages}
        assert http.post("/console/api/import", json=[exported]).json() == {"imported": 1}
    page.goto(f"{server.url}/#/chat/long")
    page.wait_for_selector("text=Message 199")
    page.wait_for_timeout(1000)
    page.evaluate("longTasks.length = 0")
    page.mouse.move(700, 400)
    for _ in range(60):
        page.mouse.wheel(0, -500)
        page.wait_for_timeout(16)
    slow = page.evaluate("longTasks")
    assert not slow or max(slow) < 100, slow


def test_sign_in(browser: Any, backend: RecitingBackend) -> None:
    with serving(backend, ServerConfig(api_keys=frozenset({KEY}))) as guarded:
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
def test_languages(browser: Any, server: RunningServer, locale: str, words: str) -> None:
    page, faults = next(new_page(browser, server, locale=locale))
    page.goto(server.url)
    page.wait_for_selector(f"text={words}")
    for name in ("rig", "models", "bench", "metrics"):
        page.goto(f"{server.url}/#/{name}")
        page.wait_for_selector(".panel")
    assert not faults
    page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_and_can_be_read(
    browser: Any, server: RunningServer, backend: RecitingBackend, theme: str, width: int
) -> None:
    """Nothing sticks out of a page, and axe, where it is installed, has no serious findings."""
    page, faults = next(new_page(browser, server, color_scheme=theme, viewport={"width": width, "height": 844}))
    backend.text = f"<think>Hm.</think>{MARKDOWN}{'longword' * 60}"
    page.goto(server.url)
    page.wait_for_selector("#prompt")
    send(page, "unbreakable" * 40)
    conversation = page.evaluate("location.hash")
    for place in (conversation, "#/rig", "#/models", "#/bench", "#/metrics"):
        page.goto(f"{server.url}/{place}")
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
