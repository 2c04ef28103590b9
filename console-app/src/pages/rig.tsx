// The rig at work: devices, how the model lies on them, what runs now, and what the doctor says.

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get, post } from "../lib/api";
import { bytes, number, percent, rate } from "../lib/format";
import { t } from "../lib/i18n";
import { usePoll } from "../lib/poll";
import { LiveChart } from "../ui/chart";
import { askNow, STATES, type Link, type Now } from "../ui/rig-strip";
import { memoryParts, StackedBar } from "../ui/stacked-bar";
import { toast } from "../ui/toast";
import { TopBar } from "../ui/top-bar";
import { Doctor } from "./doctor";
import { PlanPlayground } from "./playground";
import { Split, type Plan } from "./split";

interface Card {
  address: string;
  name: string;
  arch: string | null;
  integrated: boolean;
  memory_total: number | null;
  driver: string | null;
  watts_limit: number | null;
}

interface RigFacts {
  model: string;
  backend: { name: string; version: string; command: string[] };
  machine: { system: string | null; kernel: string | null; cpu: { model: string; cores: number; flags: string[]; sockets: number }; memory: number; cards: Card[]; unread: string[] };
  kernels: string[];
  plan: Plan | null;
  dtypes: string[];
}

const SECONDS = 1.5;
const KEPT = 200; // samples of the charts

export function Rig() {
  const { value: rig, error } = usePoll(() => get<RigFacts>("/console/api/rig"), 0);
  return (
    <>
      <TopBar title={t("rig")} />
      <div class="content" tabIndex={0}>
        {error && (
          <p class="error" role="alert">
            {error.message || t("serverGone")}
          </p>
        )}
        {!rig && !error && <p class="page-state">{t("loading")}</p>}
        {rig && <Live rig={rig} />}
        {rig?.plan && <Split plan={rig.plan} />}
        {rig && <Doctor />}
        {rig && <PlanPlayground model={rig.model} />}
      </div>
    </>
  );
}

function Live({ rig }: { rig: RigFacts }) {
  const { value: now, error, refresh } = usePoll(askNow, SECONDS);
  const history = useSignal<Now[]>([]);
  useEffect(() => {
    if (now) history.value = [...history.value, now].slice(-KEPT);
  }, [now]);
  const [before, last] = history.value.slice(-2);
  const speed =
    last?.scheduler && before?.scheduler ? Math.max(0, (last.scheduler.generated_tokens - before.scheduler.generated_tokens) / (last.time - before.time)) : null;
  return (
    <>
      <section class="panel now">
        <div class="now-head">
          <div>
            <h2>{rig.model}</h2>
            <p class="hint">
              {rig.backend.version}
              {rig.dtypes.length > 0 && ` · ${rig.dtypes.join(", ")}`}
              {rig.plan && ` · ${t("splitMode", { mode: rig.plan.mode })}`}
            </p>
          </div>
          {now && <Sleeping now={now} refresh={refresh} unreachable={error !== null} />}
        </div>
        {now?.scheduler && (
          <dl class="tiles">
            <Tile word={t("running")} value={number(now.scheduler.running)} />
            <Tile word={t("waitingRequests")} value={number(now.scheduler.waiting)} />
            <Tile word={t("generating")} value={`${rate(speed ?? 0)}`} unit={t("tokensPerSecond")} />
            <Tile
              word={t("prefixHits")}
              value={now.scheduler.prompt_tokens ? percent(now.scheduler.prefix_hits / now.scheduler.prompt_tokens) : "–"}
              title={t("prefixHitsHelp", { hits: number(now.scheduler.prefix_hits), tokens: number(now.scheduler.prompt_tokens) })}
            />
            <Tile
              word={t("rightGuesses")}
              value={now.scheduler.guessed_tokens ? percent(now.scheduler.right_guesses / now.scheduler.guessed_tokens) : "–"}
              title={t("guessedHelp")}
            />
            <Tile word={t("preemptions")} value={number(now.scheduler.preemptions)} />
          </dl>
        )}
        {now?.scheduler && <Blocks scheduler={now.scheduler} />}
      </section>
      <h2 class="section">{t("devices")}</h2>
      <div class="devices">
        <Processor rig={rig} history={history.value} />
        {rig.machine.cards.map((card, index) => (
          <CardPanel key={card.address} card={card} index={index} rig={rig} history={history.value} />
        ))}
      </div>
      {rig.machine.unread.length > 0 && <p class="hint">{t("unread", { what: rig.machine.unread.join("; ") })}</p>}
    </>
  );
}

export const Tile = ({ word, value, unit, title }: { word: string; value: string; unit?: string; title?: string }) => (
  <div title={title}>
    <dt>{word}</dt>
    <dd>
      {value} {unit && <small>{unit}</small>}
    </dd>
  </div>
);

function Sleeping({ now, refresh, unreachable }: { now: Now; refresh: () => void; unreachable: boolean }) {
  const busy = useSignal(false);
  const change = async (to: "sleep" | "wake") => {
    busy.value = true;
    await post(`/console/api/${to}`).catch((error) => toast(error.message || t("serverGone"), "error"));
    busy.value = false;
    refresh();
  };
  return (
    <div class="row">
      <span class={`state ${unreachable ? "failed" : now.state}`}>
        <i /> {t(unreachable ? "unreachable" : STATES[now.state])}
      </span>
      {now.state === "asleep" ? (
        <button type="button" disabled={busy.value} onClick={() => change("wake")}>
          {busy.value ? t("waking") : t("wake")}
        </button>
      ) : (
        <button type="button" disabled={busy.value || now.state !== "ready"} title={t("sleepHelp")} onClick={() => change("sleep")}>
          {busy.value ? t("fallingAsleep") : t("sleep")}
        </button>
      )}
    </div>
  );
}

function Blocks({ scheduler }: { scheduler: NonNullable<Now["scheduler"]> }) {
  const { blocks_total: all, blocks_used: used, blocks_cached: cached } = scheduler;
  const told = t("blocksTold", { used: number(used), cached: number(cached), all: number(all) });
  return (
    <div class="stacked">
      <div class="bar thin" role="img" aria-label={told}>
        <i class="cache" style={{ width: `${(100 * used) / all}%` }} />
        <i class="cached" style={{ width: `${(100 * cached) / all}%` }} />
      </div>
      <p class="hint">{told}</p>
    </div>
  );
}

const chartTimes = (history: Now[]) => history.map((one) => one.time);

function Processor({ rig, history }: { rig: RigFacts; history: Now[] }) {
  const { cpu, memory } = rig.machine;
  const last = history.at(-1);
  const held = (rig.plan?.holdings ?? []).filter((one) => /(^|\/)cpu/.test(one.device));
  const asleep = last?.state === "asleep";
  const sum = (name: "weights" | "cache" | "buffers") => (asleep ? 0 : held.reduce((all, one) => all + one[name], 0));
  // Memory of a processor is taken when it is first written to: of the cache, that of blocks that hold something.
  const blocks = last?.scheduler;
  const filled = blocks ? (blocks.blocks_used + blocks.blocks_cached) / blocks.blocks_total : 0;
  const used = (one: Now) => one.memory.total - one.memory.free;
  return (
    <section class="panel device">
      <h3>{cpu.model || t("processor")}</h3>
      <p class="hint">
        {t("cores", { count: cpu.cores })} · {t("kernels", { names: rig.kernels.slice(0, 2).join(", ") || "–" })} · {bytes(memory)}
      </p>
      {last && <StackedBar parts={memoryParts(sum("weights"), sum("cache") * filled, sum("buffers"), last.memory.total, last.memory.free)} total={last.memory.total} />}
      <div class="charts">
        <LiveChart
          title={t("use")}
          value={last ? `${number(last.cpu)} %` : "–"}
          times={chartTimes(history)}
          max={100}
          format={(value) => `${value} %`}
          lines={[{ label: t("use"), color: "--accent", values: history.map((one) => one.cpu) }]}
        />
        <LiveChart
          title={t("memory")}
          value={last ? bytes(used(last)) : "–"}
          times={chartTimes(history)}
          max={memory}
          format={(value) => bytes(value, 0)}
          lines={[{ label: t("memory"), color: "--cache", values: history.map(used) }]}
        />
      </div>
    </section>
  );
}

function CardPanel({ card, index, rig, history }: { card: Card; index: number; rig: RigFacts; history: Now[] }) {
  const compute = rig.machine.cards.filter((one) => !one.integrated);
  const number_ = compute.indexOf(card);
  const of = (one: Now) => one.cards.find((each) => each.address === card.address);
  const last = history.at(-1) && of(history.at(-1)!);
  const held = (rig.plan?.holdings ?? []).filter((one) => number_ >= 0 && one.device === `cuda:${number_}`);
  const asleep = history.at(-1)?.state === "asleep";
  const sum = (name: "weights" | "cache" | "buffers") => (asleep ? 0 : held.reduce((all, one) => all + one[name], 0));
  const values = (name: "busy" | "watts" | "celsius") => history.map((one) => of(one)?.[name] ?? null);
  const chart = (title: string, name: "busy" | "watts" | "celsius", unit: string, max?: number) =>
    values(name).some((value) => value !== null) && (
      <LiveChart
        title={title}
        value={last?.[name] === null || last?.[name] === undefined ? "–" : `${number(last[name])} ${unit}`}
        times={chartTimes(history)}
        max={max}
        format={(value) => `${value} ${unit}`}
        lines={[{ label: title, color: "--accent", values: values(name) }]}
      />
    );
  return (
    <section class="panel device">
      <h3>
        {number_ >= 0 ? `cuda:${number_}` : `#${index}`} · {card.name}
      </h3>
      <p class="hint">{[card.arch, card.driver, last && linkText(last.link)].filter(Boolean).join(" · ")}</p>
      {last?.memory_total && (
        <StackedBar parts={memoryParts(sum("weights"), sum("cache"), sum("buffers"), last.memory_total, last.memory_free)} total={last.memory_total} />
      )}
      <div class="charts">
        {chart(t("use"), "busy", "%", 100)}
        {chart(t("power"), "watts", "W", card.watts_limit ?? undefined)}
        {chart(t("temperatureOf"), "celsius", "°C", 110)}
      </div>
    </section>
  );
}

function linkText(link: Link | null): string {
  if (!link?.speed || !link.width) return "";
  const best = link.best_speed && link.best_width ? ` / ${link.best_speed} GT/s x${link.best_width}` : "";
  return `${t("link")} ${link.speed} GT/s x${link.width}${best}`;
}
