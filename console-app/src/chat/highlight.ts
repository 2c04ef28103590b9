// highlight.js with the languages that models write most.

import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import csharp from "highlight.js/lib/languages/csharp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import markdown from "highlight.js/lib/languages/markdown";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";

const languages = { bash, c, cpp, csharp, css, diff, go, java, javascript, json, markdown, python, rust, sql, typescript, xml, yaml };
for (const [name, definition] of Object.entries(languages)) hljs.registerLanguage(name, definition);

interface Scope {
  scope?: string;
  children: (Scope | string)[];
}

/** Code as nodes, made of what highlight.js found and not of its HTML, which would have to be parsed and sanitized. */
export default function highlighted(code: string, language: string): (Node | string)[] {
  if (!hljs.getLanguage(language)) return [code];
  const found = hljs.highlight(code, { language, ignoreIllegals: true }) as unknown as { _emitter: { rootNode: Scope } };
  return found._emitter.rootNode.children.map(node);
}

function node(part: Scope | string): Node | string {
  if (typeof part === "string") return part;
  const span = document.createElement("span");
  if (part.scope) span.className = `hljs-${part.scope.split(".")[0]}`;
  span.append(...part.children.map(node));
  return span;
}
