// Markdown → DOM. Raw HTML is shown as text; what Markdown makes passes a sanitizer all the same.
// Formulas and code are placeholders at first: their libraries are fetched with the first one.

import DOMPurify from "dompurify";
import { Marked, type Token, type Tokens } from "marked";

const LARGEST_HIGHLIGHTED = 60_000; // characters of code
const AT_ONCE = 4000; // characters that are highlighted without a pause

const escape = (text: string) =>
  text.replace(/[&<>"']/g, (each) => `&#${each.charCodeAt(0)};`);

const math = (display: boolean) => (text: string) => ({ type: "math", raw: "", text: text.trim(), display });

const marked = new Marked({
  gfm: true,
  renderer: {
    html: ({ text }) => escape(text),
    link({ href, title, tokens }) {
      const inner = this.parser.parseInline(tokens);
      if (!/^(https?:|mailto:)/i.test(href)) return inner;
      return `<a href="${escape(href)}" target="_blank" rel="noopener noreferrer"${title ? ` title="${escape(title)}"` : ""}>${inner}</a>`;
    },
    // Nothing is fetched from elsewhere because a model says so.
    image: ({ href, text }) =>
      /^https?:/i.test(href) ? `<a href="${escape(href)}" target="_blank" rel="noopener noreferrer">${escape(text || href)}</a>` : escape(text),
    code: ({ text, lang }) => `<pre class="code" data-lang="${escape((lang ?? "").split(/\s/)[0])}"><code>${escape(text)}</code></pre>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    table(token) {
      const cells = (row: Tokens.TableCell[], tag: string) =>
        row.map((cell) => `<${tag}${cell.align ? ` align="${cell.align}"` : ""}>${this.parser.parseInline(cell.tokens)}</${tag}>`).join("");
      const body = token.rows.map((row) => `<tr>${cells(row, "td")}</tr>`).join("");
      return `<div class="table"><table><thead><tr>${cells(token.header, "th")}</tr></thead><tbody>${body}</tbody></table></div>`;
    },
  },
  extensions: [
    {
      name: "mathBlock",
      level: "block",
      start: (source) => source.match(/\n(\$\$|\\\[)/)?.index,
      tokenizer(source) {
        const match = /^(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/.exec(source);
        return match ? { ...math(true)(match[1] ?? match[2]), type: "mathBlock", raw: match[0] } : undefined;
      },
      renderer: (token) => `<p><span class="math" data-display="1">${escape(token.text)}</span></p>`,
    },
    {
      name: "mathInline",
      level: "inline",
      start: (source) => source.match(/\$|\\\(|\\\[/)?.index,
      tokenizer(source) {
        // A dollar sign is money unless the formula begins and ends right beside its signs, and no digit follows.
        const match =
          /^\$\$([^$\n]+?)\$\$/.exec(source) ??
          /^\\\[([\s\S]+?)\\\]/.exec(source) ??
          /^\\\(([\s\S]+?)\\\)/.exec(source) ??
          /^\$(?!\s)((?:\\.|[^\\$\n])+?)(?<!\s)\$(?!\d)/.exec(source);
        if (!match) return undefined;
        const display = match[0].startsWith("$$") || match[0].startsWith("\\[");
        return { ...math(display)(match[1]), type: "mathInline", raw: match[0] };
      },
      renderer: (token) => `<span class="math"${token.display ? ' data-display="1"' : ""}>${escape(token.text)}</span>`,
    },
  ],
});

const MARKDOWN = {
  ALLOWED_TAGS: [
    ..."p br strong em del code pre blockquote ul ol li div table thead tbody tr th td h1 h2 h3 h4 h5 h6 hr a span".split(" "),
  ],
  ALLOWED_ATTR: ["href", "target", "rel", "title", "align", "start", "class", "data-lang", "data-display"],
  ADD_ATTR: ["target"],
  RETURN_DOM_FRAGMENT: true as const,
};
const MATH = {
  USE_PROFILES: { mathMl: true },
  ADD_TAGS: ["semantics"],
  FORBID_ATTR: ["style", "href"],
  RETURN_DOM_FRAGMENT: true as const,
};

export const blocks = (text: string): Token[] => marked.lexer(text);

export function render(token: Token, links: Token[] = []): DocumentFragment {
  return DOMPurify.sanitize(marked.parser([token, ...links]), MARKDOWN) as unknown as DocumentFragment;
}

let highlighter: typeof import("./highlight").default | null = null;
let katex: typeof import("katex").default | null = null;

/** Set formulas and highlight code below a node, as soon as the libraries are here. */
export function enhance(root: ParentNode): void {
  for (const node of root.querySelectorAll<HTMLElement>("span.math")) setFormula(node);
  for (const node of root.querySelectorAll<HTMLElement>("pre.code")) highlight(node);
}

function setFormula(node: HTMLElement): void {
  if (!katex) {
    import("katex").then((module) => {
      katex = module.default;
      if (node.isConnected) setFormula(node);
    });
    return;
  }
  const html = katex.renderToString(node.textContent ?? "", {
    output: "mathml",
    displayMode: node.dataset.display === "1",
    throwOnError: false,
    strict: "ignore",
    trust: false,
    maxExpand: 500,
    maxSize: 20,
  });
  // The formula's source would otherwise show behind it, once its wrapper is taken away; and the page's policy allows no
  // styles. (What is between tags is escaped, so that neither can be part of the formula's text.)
  const plain = html.replace(/<annotation[\s\S]*?<\/annotation>/g, "").replace(/ style="[^"]*"/g, "");
  const clean = DOMPurify.sanitize(plain, MATH) as unknown as DocumentFragment;
  node.replaceChildren(clean);
  node.classList.replace("math", "formula");
}

export function highlight(pre: HTMLElement): void {
  const lang = pre.dataset.lang;
  const code = pre.querySelector("code")!;
  const text = code.textContent ?? "";
  if (!lang || text.length > LARGEST_HIGHLIGHTED) return;
  if (!highlighter) {
    import("./highlight").then((module) => {
      highlighter = module.default;
      if (pre.isConnected) highlight(pre);
    });
    return;
  }
  if (text.length < AT_ONCE) {
    code.replaceChildren(...highlighter(text, lang));
    return;
  }
  // Long code in steps, between which the page can answer its reader.
  later(() => {
    const found = highlighter!(text, lang);
    later(() => code.textContent === text && code.replaceChildren(...found));
  });
}

const later = (step: () => void) => ("requestIdleCallback" in window ? requestIdleCallback(step, { timeout: 2000 }) : setTimeout(step, 50));
