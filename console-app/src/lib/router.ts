// Which page is shown: the address behind the #, so that one static file serves them all.

import { computed, signal } from "@preact/signals";

const hash = signal(location.hash);
addEventListener("hashchange", () => (hash.value = location.hash));

export const PAGES = ["chat", "rig", "models", "bench", "metrics"] as const;
export type Page = (typeof PAGES)[number];

const parts = computed(() => hash.value.replace(/^#\/?/, "").split("/"));
export const page = computed<Page>(() => (PAGES as readonly string[]).includes(parts.value[0]) ? (parts.value[0] as Page) : "chat");
/** The id of the conversation that is shown; "" for a new one. */
export const shownId = computed(() => (page.value === "chat" ? (parts.value[1] ?? "") : ""));

export function go(to: string, replace = false): void {
  if (replace) {
    history.replaceState(null, "", `#/${to}`);
    hash.value = location.hash;
  } else location.hash = `#/${to}`;
}
