// Light or dark: the system's choice unless the reader makes another.

import { effect, signal } from "@preact/signals";

const KEPT = "rowspan.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

export const theme = signal<"light" | "dark">(
  (localStorage.getItem(KEPT) as "light" | "dark" | null) ?? (system.matches ? "dark" : "light"),
);

system.addEventListener("change", () => {
  if (!localStorage.getItem(KEPT)) theme.value = system.matches ? "dark" : "light";
});

effect(() => {
  document.documentElement.dataset.theme = theme.value;
});

export function switchTheme(): void {
  theme.value = theme.value === "dark" ? "light" : "dark";
  localStorage.setItem(KEPT, theme.value);
}
