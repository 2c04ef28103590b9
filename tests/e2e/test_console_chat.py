"""What people do with the console's chat, in a real browser, over a backend that recites."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit import reciting_backend
from kit.console_page import ANSWER, CHROMIUM, DONE, MARKDOWN, last_answer, send, tool
from kit.http_server import RunningServer, eventually
from kit.reciting_backend import RecitingBackend

playwright = pytest.importorskip("playwright.sync_api", reason="playwright: not installed")
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium: not installed"),
]


def test_a_whole_conversation(page: Any, reciting: RecitingBackend) -> None:
    reciting.text = "First answer."
    send(page, "First question")
    assert last_answer(page) == "First answer."
    reciting.text = "Second answer."
    tool(page, "Regenerate")
    page.wait_for_selector(f"{DONE} >> text=Second answer.")
    assert page.inner_text(".branches") == "2/2"
    tool(page, "Previous version")
    page.wait_for_selector(f"{DONE} >> text=First answer.")
    reciting.text = "Third answer."
    tool(page, "Edit", ".user")
    page.fill(".editor textarea", "Edited question")
    page.press(".editor textarea", "Enter")
    page.wait_for_selector(f"{DONE} >> text=Third answer.")
    assert [said["content"] for said in reciting.asked[-1]] == ["Edited question"]
    assert "first after" in page.inner_text(f"{ANSWER} .figures")
    reciting.text, reciting.pause = "one two three four five six " * 50, 0.05
    send(page, "Count", wait=False)
    page.wait_for_selector(f"{ANSWER}:last-child >> text=two three")
    page.keyboard.press("Escape")
    page.wait_for_selector(f"{DONE}:last-child >> text=stopped")
    stopped = last_answer(page)
    reciting.text, reciting.pause = " and the rest.", 0.0
    tool(page, "Continue")
    page.wait_for_selector(f"{DONE}:last-child >> text=and the rest.")
    assert last_answer(page).startswith(stopped.strip())
    assert reciting.asked[-1][-1]["role"] == "assistant"
    before = page.inner_text(".log")
    page.reload()
    page.wait_for_selector(f"{ANSWER}:last-child >> text=and the rest.")
    kept = re.sub(r"\s+", " ", page.inner_text(".log"))
    assert kept == re.sub(r"\s+", " ", before)
    page.click(".message.user .tool[aria-label='Previous version']")
    page.wait_for_selector("text=First question")


def test_the_list_of_conversations(page: Any, reciting: RecitingBackend) -> None:
    reciting.text = "About whales."
    send(page, "Whales?")
    page.click(".new-chat")
    page.wait_for_selector(".welcome")
    reciting.text = "About cats."
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


def test_two_tabs(page: Any, browser: Any, console: RunningServer, reciting: RecitingBackend) -> None:
    reciting.text, reciting.pause = "slow " * 40, 0.05
    send(page, "In the first tab", wait=False)
    page.wait_for_selector(f"{ANSWER} >> text=slow slow")
    other = page.context.new_page()
    other.goto(console.url)
    other.click(".conversations >> text=In the first tab")
    other.wait_for_selector(".message.user >> text=In the first tab")
    reciting.text, reciting.pause = "quick", 0.0
    other.click(".new-chat")
    send(other, "In the second tab")
    assert last_answer(other) == "quick"
    page.wait_for_selector(DONE)
    assert last_answer(page).split() == ["slow"] * 40


def test_markdown(page: Any, reciting: RecitingBackend) -> None:
    reciting.text, reciting.pause = MARKDOWN, 0.01
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


def test_reasoning_tokens_and_settings(page: Any, reciting: RecitingBackend) -> None:
    page.click("[aria-label='Settings']")
    page.fill(".settings label:has-text('System prompt') textarea", "Be brief.")
    page.fill(".settings label:has-text('Temperature') input", "0.2")
    page.fill(".settings label:has-text('JSON schema') textarea", "{nonsense")
    page.check(".settings label:has-text('Token view') input")
    page.wait_for_selector(".settings .field .refusal")
    page.fill(".settings label:has-text('JSON schema') textarea", "")
    page.press(".settings label:has-text('JSON schema') textarea", "Tab")
    reciting.text = "<think>Let me see.</think>It is so."
    send(page, "Why?")
    assert reciting.asked[-1][0] == {"role": "system", "content": "Be brief."}
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


def test_two_settings_side_by_side(page: Any, reciting: RecitingBackend) -> None:
    page.click("[aria-label='Settings']")
    page.check(".compare input[type=checkbox]")
    page.fill(".compare input[type=number]", "0.1")
    page.press(".compare input[type=number]", "Tab")
    page.click(".settings [aria-label='Close']")
    reciting.text, reciting.pause = "Twice told.", 0.02
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
    assert [said["content"] for said in reciting.asked[-1]] == ["Which is better?"]


def test_it_answers_even_if_nothing_can_be_kept(page: Any) -> None:
    broken = {"error": {"message": "The conversations cannot be used.", "code": "internal_error"}}
    page.route("**/console/api/conversations/**", lambda route: route.fulfill(status=500, json=broken))
    send(page, "Hello?")
    assert last_answer(page) == "Hello."
    page.wait_for_selector(".toast.error >> text=cannot be used")


def test_attached_files(page: Any, reciting: RecitingBackend) -> None:
    code = {"name": "a very long name of a file that nobody would ever write.py", "mimeType": "text/x-python"}
    page.set_input_files(".composer input[type=file]", [{**code, "buffer": b"print('hello')"}])
    page.wait_for_selector(".composer .files >> text=a very long name")
    send(page, "What is this?")
    assert "print('hello')" in str(reciting.asked[-1][-1]["content"])
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
