// The list of conversations.

import { useEffect, useRef } from "preact/hooks";
import { get } from "../lib/api";
import { when } from "../lib/format";
import { t } from "../lib/i18n";
import { go, shownId } from "../lib/router";
import { ask } from "../ui/dialog";
import { Icon } from "../ui/icons";
import { Menu } from "../ui/menu";
import { toast } from "../ui/toast";
import { importFile, list, listed, pin, remove, rename, search, type Listed } from "./store";

const tell = (error: unknown) => toast((error as Error).message || t("serverGone"), "error");

export function Conversations({ chosen }: { chosen: () => void }) {
  const groups = new Map<string, Listed[]>();
  for (const one of listed.value ?? []) {
    const heading = one.pinned ? t("pinned") : when(one.updated);
    groups.set(heading, [...(groups.get(heading) ?? []), one]);
  }
  return (
    <>
      <SearchField />
      <nav class="conversations" aria-label={t("conversations")}>
        {listed.value === null && <p class="hint">{t("loading")}</p>}
        {listed.value?.length === 0 && <p class="hint">{search.value ? t("nothingFound") : t("noConversations")}</p>}
        {[...groups].map(([heading, entries]) => (
          <section key={heading}>
            <h2>{heading}</h2>
            <ul>
              {entries.map((one) => (
                <Entry key={one.id} one={one} chosen={chosen} />
              ))}
            </ul>
          </section>
        ))}
      </nav>
    </>
  );
}

function SearchField() {
  const timer = useRef(0);
  return (
    <label class="search">
      <Icon name="search" size={16} />
      <span class="unseen">{t("search")}</span>
      <input
        id="search"
        type="search"
        placeholder={t("search")}
        value={search.value}
        onInput={(event) => {
          search.value = event.currentTarget.value;
          clearTimeout(timer.current);
          timer.current = window.setTimeout(() => list().catch(tell), 150);
        }}
      />
    </label>
  );
}

function Entry({ one, chosen }: { one: Listed; chosen: () => void }) {
  const current = shownId.value === one.id;
  const link = useRef<HTMLAnchorElement>(null);
  useEffect(() => {
    if (current) link.current?.scrollIntoView({ block: "nearest" });
  }, [current]);
  const title = one.title || t("untitled");
  return (
    <li class={current ? "current" : ""}>
      <a ref={link} href={`#/chat/${one.id}`} aria-current={current ? "page" : undefined} title={title} onClick={chosen}>
        <span>{title}</span>
        {one.found && <small>{one.found}</small>}
      </a>
      <Menu
        label={t("actionsFor", { title })}
        button={<Icon name="dots" />}
        actions={[
          {
            label: t("rename"),
            icon: "edit",
            run: async () => {
              const name = await ask({ title: t("rename"), input: one.title, yes: t("rename") });
              if (name) rename(one.id, name).catch(tell);
            },
          },
          { label: one.pinned ? t("unpin") : t("pin"), icon: "pin", run: () => void pin(one.id, !one.pinned).catch(tell) },
          { label: t("exportMarkdown"), icon: "export", run: () => download(`/console/api/conversations/${one.id}/export?form=md`) },
          { label: t("exportJson"), icon: "export", run: () => download(`/console/api/conversations/${one.id}/export?form=json`) },
          {
            label: t("delete"),
            icon: "trash",
            danger: true,
            run: async () => {
              const sure = await ask({ title: t("deleteQuestion"), text: title, yes: t("delete"), danger: true });
              if (sure !== null) remove(one.id).catch(tell);
            },
          },
        ]}
      />
    </li>
  );
}

/** A file that the server makes; its name is the server's. */
export async function download(path: string): Promise<void> {
  try {
    await get("/console/api/session");
  } catch (error) {
    tell(error);
    return;
  }
  const link = document.createElement("a");
  link.href = path;
  link.download = "";
  link.click();
}

export function chooseImport(): void {
  const input = Object.assign(document.createElement("input"), { type: "file", accept: ".json,application/json" });
  input.addEventListener("change", async () => {
    try {
      const count = await importFile(input.files![0]);
      toast(t("imported", { count }));
      go("chat");
    } catch (error) {
      toast(error instanceof SyntaxError ? t("noJson") : (error as Error).message, "error");
    }
  });
  input.click();
}
