// The interface's words, in the browser's language or the one that was chosen.

import { effect, signal } from "@preact/signals";
import { en } from "../words/en";
import { zh } from "../words/zh";

export type Words = typeof en;
export type Word = keyof Words;
const WORDS: Record<string, Words> = { en, zh };
const KEPT = "rowspan.language";

const browsers = () => (navigator.languages.some((each) => /^zh\b/i.test(each)) && /^zh/i.test(navigator.language) ? "zh" : "en");

export const language = signal<string>(localStorage.getItem(KEPT) ?? browsers());

effect(() => {
  document.documentElement.lang = language.value === "zh" ? "zh-CN" : "en";
});

export function choose(name: string): void {
  localStorage.setItem(KEPT, name);
  language.value = name;
}

/** A text, with {names} replaced. */
export function t(word: Word, values: Record<string, string | number> = {}): string {
  const text = (WORDS[language.value] ?? en)[word];
  return text.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}
