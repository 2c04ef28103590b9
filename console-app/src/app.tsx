// The shell around all pages: side bar, sign-in, shortcuts.

import { useSignal } from "@preact/signals";
import type { ComponentType } from "preact";
import { useEffect } from "preact/hooks";
import { Chat, settingsOpen } from "./chat/chat";
import { loadModels } from "./chat/models";
import { loadPreferences } from "./chat/settings";
import { chooseImport, Conversations, download } from "./chat/sidebar";
import { catchUp, freshDefaults, list, open, shown } from "./chat/store";
import { get, signInNeeded, signOut } from "./lib/api";
import { choose, language, t, type Word } from "./lib/i18n";
import { go, page, PAGES, shownId, type Page } from "./lib/router";
import { switchTheme, theme } from "./lib/theme";
import { Dialog, Questions } from "./ui/dialog";
import { Icon, Logo, type IconName } from "./ui/icons";
import { Menu } from "./ui/menu";
import { RigStrip } from "./ui/rig-strip";
import { SignIn } from "./ui/sign-in";
import { toast, Toasts } from "./ui/toast";
import { drawerOpen, sidebarHidden, toggleSidebar } from "./ui/top-bar";

const LABELS: Record<Page, [Word, IconName]> = {
  chat: ["chat", "chat"],
  rig: ["rig", "rig"],
  models: ["models", "models"],
  bench: ["bench", "bench"],
  metrics: ["metrics", "metrics"],
};

// Each is fetched when it is first shown.
const PARTS: Record<Exclude<Page, "chat">, () => Promise<ComponentType>> = {
  rig: () => import("./pages/rig").then((module) => module.Rig),
  models: () => import("./pages/models").then((module) => module.Models),
  bench: () => import("./pages/bench").then((module) => module.Bench),
  metrics: () => import("./pages/metrics").then((module) => module.MetricsPage),
};

export function App() {
  const needsKey = useSignal(false);
  const helping = useSignal(false);
  const start = () => {
    get<{ needs_key: boolean; signed_in: boolean }>("/console/api/session")
      .then((session) => {
        needsKey.value = session.needs_key;
        if (session.signed_in) return Promise.all([list(), loadModels(), loadPreferences().then(freshDefaults)]);
        signInNeeded.value = true;
      })
      .catch((error) => toast(error.message || t("serverGone"), "error"));
  };
  useEffect(start, []);
  useEffect(() => {
    const keys = (event: KeyboardEvent) => shortcut(event, () => (helping.value = true));
    addEventListener("keydown", keys);
    // Another tab may have changed something.
    const seen = () => void (document.hidden || catchUp().catch(() => {}));
    document.addEventListener("visibilitychange", seen);
    return () => {
      removeEventListener("keydown", keys);
      document.removeEventListener("visibilitychange", seen);
    };
  }, []);
  const title = (page.value === "chat" && shown.value?.title.value) || t(LABELS[page.value][0]);
  useEffect(() => {
    document.title = `${title} · Rowspan`;
  }, [title]);
  if (signInNeeded.value)
    return (
      <SignIn
        done={() => {
          start();
          if (page.value === "chat") open(shownId.value);
        }}
      />
    );
  return (
    <div class={`shell ${sidebarHidden.value ? "without-sidebar" : ""} ${drawerOpen.value ? "drawer-open" : ""}`}>
      <aside class="sidebar" aria-label={t("sidebar")}>
        <header>
          <a href="#/chat" class="brand" aria-label="Rowspan">
            <Logo /> <span>Rowspan</span>
          </a>
          <button type="button" class="new-chat" onClick={newChat} title={`${t("newChat")} (Ctrl+Shift+O)`}>
            <Icon name="plus" size={16} /> {t("newChat")}
          </button>
        </header>
        <Conversations chosen={() => (drawerOpen.value = false)} />
        <RigStrip />
        <nav class="pages" aria-label={t("pages")}>
          {PAGES.map((name) => (
            <a
              key={name}
              href={`#/${name}`}
              aria-current={page.value === name ? "page" : undefined}
              onClick={() => (drawerOpen.value = false)}
            >
              <Icon name={LABELS[name][1]} />
              <span>{t(LABELS[name][0])}</span>
            </a>
          ))}
        </nav>
        <footer>
          <button type="button" class="tool" aria-label={t(theme.value === "dark" ? "lightTheme" : "darkTheme")} title={t(theme.value === "dark" ? "lightTheme" : "darkTheme")} onClick={switchTheme}>
            <Icon name={theme.value === "dark" ? "sun" : "moon"} />
          </button>
          <button type="button" class="tool language" lang={language.value === "zh" ? "en" : "zh"} title={language.value === "zh" ? "English" : "中文"} onClick={() => choose(language.value === "zh" ? "en" : "zh")}>
            {language.value === "zh" ? "EN" : "中"}
          </button>
          <Menu
            label={t("more")}
            up
            align="end"
            button={<Icon name="dots" />}
            actions={[
              { label: t("importFile"), icon: "import", run: chooseImport },
              { label: t("exportAll"), icon: "export", run: () => void download("/console/api/export") },
              { label: t("shortcuts"), icon: "help", run: () => (helping.value = true) },
              ...(needsKey.value ? [{ label: t("signOut"), icon: "out" as const, run: () => void signOut() }] : []),
            ]}
          />
        </footer>
      </aside>
      <div class="scrim" onClick={() => (drawerOpen.value = false)} />
      <main class="page">{page.value === "chat" ? <Chat /> : <Part key={page.value} name={page.value} />}</main>
      <Questions />
      {helping.value && <Shortcuts close={() => (helping.value = false)} />}
      <Toasts />
    </div>
  );
}

function Part({ name }: { name: Exclude<Page, "chat"> }) {
  const part = useSignal<{ Content: ComponentType } | null>(null);
  const failed = useSignal(false);
  useEffect(() => {
    PARTS[name]().then(
      (Content) => (part.value = { Content }),
      () => (failed.value = true),
    );
  }, []);
  if (failed.value)
    return (
      <div class="page-state" role="alert">
        <p>{t("serverGone")}</p>
        <button type="button" onClick={() => location.reload()}>
          {t("tryAgain")}
        </button>
      </div>
    );
  return part.value ? <part.value.Content /> : null;
}

function newChat(): void {
  drawerOpen.value = false;
  if (page.value === "chat" && shownId.value === "") open("");
  go("chat");
}

function shortcut(event: KeyboardEvent, help: () => void): void {
  const control = event.ctrlKey || event.metaKey;
  const typing = (event.target as HTMLElement).matches?.("input, textarea, select");
  if (control && event.shiftKey && event.key.toLowerCase() === "o") newChat();
  else if (control && event.key.toLowerCase() === "k") {
    if (sidebarHidden.value) toggleSidebar();
    if (matchMedia("(max-width: 800px)").matches) drawerOpen.value = true;
    document.getElementById("search")?.focus();
  } else if (control && event.key === ",") settingsOpen.toggle();
  else if (control && event.key.toLowerCase() === "b") toggleSidebar();
  else if (event.key === "Escape" && !document.querySelector("dialog[open], .editing, .menu")) {
    if (drawerOpen.value) drawerOpen.value = false;
    else if (shown.value?.running.value) shown.value.running.value.abort();
    else return;
  } else if (event.key === "?" && !typing) help();
  else if (event.key === "/" && !typing) document.getElementById("prompt")?.focus();
  else return;
  event.preventDefault();
}

const SHORTCUTS: [string, Word][] = [
  ["Enter", "send"],
  ["Shift+Enter", "newLine"],
  ["Esc", "stop"],
  ["↑", "editLast"],
  ["/", "focusMessage"],
  ["Ctrl+Shift+O", "newChat"],
  ["Ctrl+K", "search"],
  ["Ctrl+,", "settings"],
  ["Ctrl+B", "sidebar"],
  ["?", "shortcuts"],
];

const Shortcuts = ({ close }: { close: () => void }) => (
  <Dialog title={t("shortcuts")} close={close}>
    <dl class="shortcuts">
      {SHORTCUTS.map(([keys, word]) => (
        <div key={keys}>
          <dt>
            {keys.split("+").map((key) => (
              <kbd key={key}>{key}</kbd>
            ))}
          </dt>
          <dd>{t(word)}</dd>
        </div>
      ))}
    </dl>
    <div class="dialog-buttons">
      <button type="button" autoFocus onClick={close}>
        {t("close")}
      </button>
    </div>
  </Dialog>
);
