// Models: what is here, what can be fetched, and what this machine could do with it.

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { loadModels, models } from "../chat/models";
import { del, get, post } from "../lib/api";
import { bytes, date, percent, rate } from "../lib/format";
import { t } from "../lib/i18n";
import { usePoll } from "../lib/poll";
import { ask } from "../ui/dialog";
import { Icon } from "../ui/icons";
import { toast } from "../ui/toast";
import { TopBar } from "../ui/top-bar";

interface Pull {
  name: string;
  state: "waiting" | "running" | "done" | "failed";
  label: string;
  done: number;
  total: number | null;
  error: string;
}

interface Entry {
  name: string;
  license: string;
  bytes: number | null;
  installed: boolean;
  forecast: { fits: boolean; split?: string; largest_context?: number | null; tg?: { value: number; low: number; high: number } | null } | null;
}

interface Listing {
  installed: { name: string; path: string; size: number; source: string; modified: number; running: boolean }[];
  catalog: Entry[];
  room: { cards: number; ram: number };
  rig: string | null;
}

const tell = (error: unknown) => toast((error as Error).message || t("serverGone"), "error");

export function Models() {
  const { value, error, refresh } = usePoll(() => get<Listing>("/console/api/models"), 0);
  const pulls = useSignal<Pull[]>([]);
  const watched = useSignal(0);
  useEffect(() => {
    let timer = 0;
    let active = false;
    const look = async () => {
      try {
        const found = (await get<{ pulls: Pull[] }>("/console/api/pulls")).pulls;
        pulls.value = found;
        const running = found.some((one) => one.state === "running" || one.state === "waiting");
        if (active && !running) {
          refresh();
          loadModels().catch(() => {});
        }
        active = running;
      } catch {
        // The server is away; what was seen last stays.
      }
      if (active) timer = window.setTimeout(look, 700);
    };
    look();
    return () => clearTimeout(timer);
  }, [watched.value]);
  const pull = (name: string) =>
    post<{ pulls: Pull[] }>("/console/api/pulls", { name })
      .then((found) => {
        pulls.value = found.pulls;
        watched.value++;
      })
      .catch(tell);
  return (
    <>
      <TopBar title={t("models")} />
      <div class="content" tabIndex={0}>
        {error && (
          <p class="error" role="alert">
            {error.message || t("serverGone")}
          </p>
        )}
        {!value && !error && <p class="page-state">{t("loading")}</p>}
        {value && (
          <>
            <Served />
            <PullForm pull={pull} pulls={pulls.value} />
            <Installed listing={value} changed={refresh} />
            <Catalog listing={value} pulls={pulls.value} pull={pull} />
            <Metadata />
          </>
        )}
      </div>
    </>
  );
}

/** Where the server serves several models: which are loaded. */
function Served() {
  if (!models.value.some((model) => model.state)) return null;
  const change = (to: "load" | "unload", model: string) =>
    post(`/models/${to}`, { model })
      .then(() => loadModels())
      .catch(tell);
  return (
    <section class="panel">
      <h2>{t("served")}</h2>
      <ul class="rows">
        {models.value.map((model) => (
          <li key={model.id}>
            <span class="grow">
              <b>{model.id}</b> <span class="badge">{model.state}</span>
            </span>
            <button type="button" onClick={() => change(model.state === "unloaded" ? "load" : "unload", model.id)}>
              {model.state === "unloaded" ? t("load") : t("unload")}
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

function PullForm({ pull, pulls }: { pull: (name: string) => void; pulls: Pull[] }) {
  const shown = pulls.filter((one) => one.state !== "done");
  return (
    <section class="panel">
      <h2>{t("fetchModel")}</h2>
      <form
        class="row"
        onSubmit={(event) => {
          event.preventDefault();
          const name = (new FormData(event.currentTarget).get("name") as string).trim();
          if (name) pull(name);
          event.currentTarget.reset();
        }}
      >
        <input name="name" class="grow" aria-label={t("modelName")} placeholder="qwen3:8b, hf:ORG/REPO:Q4_K_M, https://…/model.gguf" required />
        <button type="submit" class="primary">
          {t("pull")}
        </button>
      </form>
      {shown.length > 0 && (
        <ul class="rows">
          {shown.map((one) => (
            <li key={one.name}>
              <span class="grow">
                <b>{one.name}</b> <PullState pull={one} />
              </span>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

function PullState({ pull }: { pull: Pull }) {
  if (pull.state === "failed") return <small class="refusal">{pull.error}</small>;
  if (pull.state === "waiting" || !pull.label) return <small>{t("waiting")}</small>;
  return (
    <span class="progress">
      <progress value={pull.total ? pull.done / pull.total : undefined} aria-label={pull.name} />
      <small>
        {bytes(pull.done)}
        {pull.total ? ` / ${bytes(pull.total)} · ${percent(pull.done / pull.total)}` : ""}
      </small>
    </span>
  );
}

function Installed({ listing, changed }: { listing: Listing; changed: () => void }) {
  return (
    <section class="panel">
      <h2>{t("onThisMachine")}</h2>
      {listing.installed.length === 0 && <p class="hint">{t("nothingInstalled")}</p>}
      <ul class="rows">
        {listing.installed.map((model) => (
          <li key={model.path}>
            <span class="grow">
              <b>{model.name}</b> {model.running && <span class="badge good">{t("serving")}</span>}
              <small title={model.path}>{model.path}</small>
            </span>
            <span class="figure">{bytes(model.size)}</span>
            <span class="figure wide-only">{date(model.modified)}</span>
            <button
              type="button"
              class="tool"
              aria-label={t("deleteModel", { name: model.name })}
              title={t("delete")}
              disabled={model.running}
              onClick={async () => {
                const sure = await ask({ title: t("deleteModel", { name: model.name }), text: t("frees", { size: bytes(model.size) }), yes: t("delete"), danger: true });
                if (sure === null) return;
                del(`/console/api/models?path=${encodeURIComponent(model.path)}`)
                  .then(changed)
                  .catch(tell);
              }}
            >
              <Icon name="trash" size={16} />
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Catalog({ listing, pulls, pull }: { listing: Listing; pulls: Pull[]; pull: (name: string) => void }) {
  const search = useSignal("");
  const onlyFitting = useSignal(false);
  const room = Math.max(listing.room.cards, listing.room.ram);
  const fits = (one: Entry) => one.forecast?.fits ?? (one.bytes === null ? null : one.bytes <= room);
  const shown = listing.catalog.filter(
    (one) => one.name.includes(search.value.trim().toLowerCase()) && (!onlyFitting.value || fits(one) === true),
  );
  return (
    <section class="panel">
      <h2>{t("catalog")}</h2>
      <p class="hint">
        {listing.rig ? t("catalogOnCards", { rig: listing.rig }) : t("catalogRoom", { size: bytes(room) })}
      </p>
      <div class="row">
        <input type="search" class="grow" aria-label={t("search")} placeholder={t("search")} value={search.value} onInput={(event) => (search.value = event.currentTarget.value)} />
        <label class="check">
          <input type="checkbox" checked={onlyFitting.value} onChange={(event) => (onlyFitting.value = event.currentTarget.checked)} />
          <span>{t("onlyFitting")}</span>
        </label>
      </div>
      {shown.length === 0 && <p class="hint">{t("nothingFound")}</p>}
      <ul class="rows">
        {shown.map((one) => {
          const progress = pulls.find((each) => each.name === one.name && each.state !== "done");
          const fit = fits(one);
          return (
            <li key={one.name}>
              <span class="grow">
                <b>{one.name}</b>
                <small>{one.license}</small>
              </span>
              {one.forecast?.tg && (
                <span class="figure" title={`${rate(one.forecast.tg.low)}–${rate(one.forecast.tg.high)}`}>
                  ≈ {rate(one.forecast.tg.value)} {t("tokensPerSecond")}
                </span>
              )}
              {fit !== null && <span class={`badge ${fit ? "good" : "bad"}`}>{fit ? t("fits") : t("tooLarge")}</span>}
              <span class="figure">{bytes(one.bytes)}</span>
              {one.installed ? (
                <span class="badge">{t("here")}</span>
              ) : progress && progress.state !== "failed" ? (
                <PullState pull={progress} />
              ) : (
                <button type="button" onClick={() => pull(one.name)}>
                  {t("pull")}
                </button>
              )}
            </li>
          );
        })}
      </ul>
    </section>
  );
}

function Metadata() {
  const found = useSignal<Record<string, unknown> | null>(null);
  const template = useSignal("");
  const failed = useSignal("");
  const load = async () => {
    if (found.value) return;
    try {
      found.value = (await get<{ metadata: Record<string, unknown> }>("/console/api/models/metadata")).metadata;
      template.value = (await get<{ chat_template: string }>("/props")).chat_template;
    } catch (error) {
      failed.value = (error as Error).message || t("serverGone");
    }
  };
  return (
    <section class="panel">
      <details onToggle={load}>
        <summary>
          <h2>{t("metadata")}</h2>
        </summary>
        {failed.value && <p class="refusal">{failed.value}</p>}
        {found.value && (
          <div class="scroll-x" tabIndex={0}>
            <table class="metadata">
              <tbody>
                {Object.entries(found.value).map(([key, value]) => (
                  <tr key={key}>
                    <th scope="row">{key}</th>
                    <td>{String(value)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
        {template.value && (
          <>
            <h3>{t("template")}</h3>
            <pre class="template" tabIndex={0}>
              {template.value}
            </pre>
          </>
        )}
      </details>
    </section>
  );
}
