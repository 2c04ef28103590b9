// The line above every page: where one is, and the page's own controls.

import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { t } from "../lib/i18n";
import { Icon } from "./icons";

/** On narrow screens the side bar lies over the page; on wide ones it may be folded away. */
export const drawerOpen = signal(false);
export const sidebarHidden = signal(localStorage.getItem("rowspan.sidebar") === "hidden");

export function toggleSidebar(): void {
  if (matchMedia("(max-width: 800px)").matches) drawerOpen.value = !drawerOpen.value;
  else {
    sidebarHidden.value = !sidebarHidden.value;
    localStorage.setItem("rowspan.sidebar", sidebarHidden.value ? "hidden" : "shown");
  }
}

export const TopBar = ({ title, children }: { title: string; children?: ComponentChildren }) => (
  <header class="top-bar">
    <button type="button" class="tool" aria-label={t("sidebar")} title={t("sidebar")} onClick={toggleSidebar}>
      <Icon name="menu" />
    </button>
    <h1 title={title}>{title}</h1>
    {children}
  </header>
);
