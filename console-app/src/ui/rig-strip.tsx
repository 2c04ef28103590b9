// The rig in a nutshell, below the conversations: who serves, what it holds, how busy it is.

import { get } from "../lib/api";
import { bytes } from "../lib/format";
import { t, type Word } from "../lib/i18n";
import { usePoll } from "../lib/poll";
import { Meter } from "./meter";

export interface Link {
  speed: number | null;
  width: number | null;
  best_speed: number | null;
  best_width: number | null;
}

export interface CardNow {
  address: string;
  memory_total: number | null;
  memory_free: number | null;
  busy: number | null;
  watts: number | null;
  celsius: number | null;
  link: Link | null;
}

export interface Now {
  time: number;
  cpu: number;
  memory: { total: number; free: number };
  cards: CardNow[];
  state: "ready" | "asleep" | "loading" | "failed";
  scheduler: {
    running: number;
    waiting: number;
    blocks_total: number;
    blocks_used: number;
    blocks_cached: number;
    prompt_tokens: number;
    prefix_hits: number;
    generated_tokens: number;
    preemptions: number;
    guessed_tokens: number;
    right_guesses: number;
  } | null;
}

export const askNow = () => get<Now>("/console/api/now");
export const STATES: Record<Now["state"], Word> = { ready: "ready", asleep: "asleep", loading: "isLoading", failed: "failed" };

export function RigStrip() {
  const { value: now, error } = usePoll(askNow, 3);
  if (!now) return <div class="rig-strip" />;
  const state = error ? "failed" : now.state;
  const running = now.scheduler?.running ?? 0;
  const cards = now.cards.filter((card) => card.memory_total);
  const used = cards.length
    ? cards.map((card) => [card.memory_total! - (card.memory_free ?? 0), card.memory_total!])
    : [[now.memory.total - now.memory.free, now.memory.total]];
  return (
    <a class="rig-strip" href="#/rig" title={t("rigStripHelp")}>
      <span class={`state ${state}`}>
        <i />
        {error ? t("unreachable") : running ? t("answering", { count: running }) : t(STATES[now.state])}
      </span>
      <span class="strip-memory">{cards.length ? t("cardMemory") : t("memory")}</span>
      {used.map(([held, total], index) => (
        <Meter key={index} value={held} max={total} warnAt={0.95} title={`${bytes(held)} / ${bytes(total)}`} label={t("memoryUsed")} />
      ))}
    </a>
  );
}
