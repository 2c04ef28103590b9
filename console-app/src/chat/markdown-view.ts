// Shows Markdown that is still being written: blocks that are complete are rendered once, only the last one again.

import type { Tokens } from "marked";
import { copy } from "../lib/copy";
import { t } from "../lib/i18n";
import { blocks, enhance, highlight, render } from "./markdown";

const SHARE = 4; // rendering may take a quarter of the time

export class MarkdownView {
  private text = "";
  private done = false;
  private complete = 0; // characters of the blocks that are rendered for good
  private live: HTMLElement | null = null;
  private code: { text: Text; pre: HTMLElement; lang?: string } | null = null; // of the last block, while it is code
  private idleUntil = 0;
  private timer = 0;

  constructor(private readonly root: HTMLElement) {}

  /** Show a text, which mostly goes on from the one that was shown. */
  update(text: string, done: boolean): void {
    clearTimeout(this.timer);
    const wait = this.idleUntil - performance.now();
    if (!done && wait > 0) {
      this.timer = window.setTimeout(() => this.update(text, done), wait);
      return;
    }
    const began = performance.now();
    this.draw(text.replace(/\r\n?/g, "\n"), done);
    const now = performance.now();
    this.idleUntil = now + (now - began) * SHARE;
  }

  private draw(text: string, done: boolean): void {
    // What was done and goes on after all may go on within its last block.
    if (!text.startsWith(this.text) || (this.done && text !== this.text)) this.clear();
    this.text = text;
    this.done = done;
    const tokens = blocks(text.slice(this.complete));
    const last = tokens.findLastIndex((token) => token.type !== "space");
    tokens.forEach((token, index) => {
      const final = done || index < last;
      if (token.type !== "space" && token.type !== "def" && index <= last) this.block(token, final);
      if (index < last) this.complete += token.raw.length;
    });
    if (done) this.complete = text.length;
  }

  private block(token: ReturnType<typeof blocks>[number], final: boolean): void {
    const node = this.live ?? this.root.appendChild(Object.assign(document.createElement("div"), { className: "block" }));
    this.live = final ? null : node;
    const goesOn = token.type === "code" && this.code?.lang === token.lang && token.text.startsWith(this.code?.text.data);
    if (goesOn && this.code) {
      this.code.text.appendData(token.text.slice(this.code.text.length));
    } else {
      node.replaceChildren(render(token));
      const pre = token.type === "code" ? node.querySelector<HTMLElement>("pre.code") : null;
      this.code = pre ? { pre, text: textOf(pre), lang: (token as Tokens.Code).lang } : null;
      for (const each of node.querySelectorAll<HTMLElement>("pre.code")) frame(each);
      if (!this.code) enhance(node);
    }
    if (this.code && final) highlight(this.code.pre);
    if (final) this.code = null;
  }

  private clear(): void {
    this.root.replaceChildren();
    this.complete = 0;
    this.live = this.code = null;
  }

  stop(): void {
    clearTimeout(this.timer);
  }
}

function textOf(pre: HTMLElement): Text {
  const code = pre.querySelector("code")!;
  const text = document.createTextNode(code.textContent ?? "");
  code.replaceChildren(text);
  return text;
}

/** Put a block of code under a line with its language and a button to copy it. */
function frame(pre: HTMLElement): void {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: t("copy") });
  button.addEventListener("click", async () => {
    await copy(pre.querySelector("code")!.textContent ?? "");
    button.textContent = t("copied");
    setTimeout(() => (button.textContent = t("copy")), 1500);
  });
  const head = Object.assign(document.createElement("div"), { className: "code-head" });
  head.append(Object.assign(document.createElement("span"), { textContent: pre.dataset.lang || "text" }), button);
  const whole = Object.assign(document.createElement("div"), { className: "code-block" });
  pre.replaceWith(whole);
  pre.tabIndex = 0;
  whole.append(head, pre);
}
