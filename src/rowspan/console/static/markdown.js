// Just enough Markdown for answers: fences, headings, lists, paragraphs, inline code, bold, emphasis.
// It builds DOM nodes out of text, never markup out of text, so nothing a model writes can become part of the page.

function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

const INLINE = /(`+)([\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([\s\S]*?\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*\n]*?[^\s*])\*(?![\w*])/g;

function inline(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    nodes.push(text.slice(end, match.index));
    const [whole, , code, bold, emphasis] = match;
    if (code !== undefined) nodes.push(element("code", "", code));
    else if (bold !== undefined) nodes.push(element("strong", "", ...inline(bold)));
    else nodes.push(element("em", "", ...inline(emphasis)));
    end = match.index + whole.length;
  }
  nodes.push(text.slice(end));
  return nodes;
}

function codeBlock(language, text) {
  const copy = element("button", "", "Copy");
  copy.type = "button";
  copy.addEventListener("click", async () => {
    await navigator.clipboard?.writeText(text);
    copy.textContent = navigator.clipboard ? "Copied" : "Not allowed";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  return element(
    "div",
    "code",
    element("header", "", element("span", "", language || "code"), copy),
    element("pre", "", element("code", "", text)),
  );
}

const ITEM = /^(\s*)(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;

/** A list from `lines[start]` on; deeper indented items become lists within. Returns the node and where it ended. */
function list(lines, start) {
  const [, indent, , first] = ITEM.exec(lines[start]);
  const ordered = first !== undefined;
  const node = element(ordered ? "ol" : "ul");
  if (ordered) node.start = Number(first);
  let at = start;
  while (at < lines.length) {
    const match = ITEM.exec(lines[at]);
    if (match && match[1].length > indent.length + 1 && node.lastChild) {
      const [inner, end] = list(lines, at);
      node.lastChild.append(inner);
      at = end;
    } else if (match && match[1].length >= indent.length && (match[3] !== undefined) === ordered) {
      node.append(element("li", "", ...inline(match[4])));
      at += 1;
    } else if (!match && /^\s+\S/.test(lines[at]) && node.lastChild && !/^\s*```/.test(lines[at])) {
      node.lastChild.append("\n", ...inline(lines[at].trim()));
      at += 1;
    } else if (!lines[at].trim() && ITEM.test(lines[at + 1] ?? "")) {
      at += 1;
    } else {
      break;
    }
  }
  return [node, at];
}

/** Nodes for a text, which may break off anywhere. */
export function render(text) {
  const lines = text.split("\n");
  const nodes = [];
  let paragraph = [];
  const endParagraph = () => {
    const content = paragraph.join("\n").trim();
    if (content) nodes.push(element("p", "", ...inline(content)));
    paragraph = [];
  };
  for (let at = 0; at < lines.length; ) {
    const line = lines[at];
    const fence = /^\s*(`{3,}|~{3,})\s*([^`\s]*)/.exec(line);
    const heading = /^#{1,6}\s+(.*?)\s*#*$/.exec(line);
    if (fence) {
      endParagraph();
      let end = at + 1;
      while (end < lines.length && !lines[end].trim().startsWith(fence[1])) end += 1;
      nodes.push(codeBlock(fence[2], lines.slice(at + 1, end).join("\n")));
      at = end + 1;
    } else if (heading) {
      endParagraph();
      nodes.push(element("h3", "", ...inline(heading[1])));
      at += 1;
    } else if (ITEM.test(line)) {
      endParagraph();
      const [node, end] = list(lines, at);
      nodes.push(node);
      at = end;
    } else {
      if (line.trim()) paragraph.push(line);
      else endParagraph();
      at += 1;
    }
  }
  endParagraph();
  return nodes;
}
