// Choose a model and cards, none of which need be here: does it fit, how fast would it be, what does it cost?

import { useSignal } from "@preact/signals";
import { get } from "../lib/api";
import { bytes, number, rate } from "../lib/format";
import { t } from "../lib/i18n";
import { usePoll } from "../lib/poll";

interface Names {
  models: string[];
  cards: { name: string; price: number | null; memory: number }[];
  here: string | null;
}

interface Interval {
  value: number;
  low: number;
  high: number;
}

interface Option {
  fits: boolean;
  refusal?: string;
  requests_at_once?: number;
  largest_context?: Record<string, number | null>;
  cards?: { card: string; layers: number; weights: number; cache: number; activations: number; overhead: number; total: number; usable: number }[];
  forecast?: { pp: Interval | null; tg: Interval | null; ttft?: Interval | null } | null;
}

interface Advice {
  model: { name: string; quantization: string; parameters: number; file_bytes: number; context: number };
  rigs: {
    name: string;
    fits: boolean;
    best_split: string | null;
    fewest_cards: number | null;
    largest_quantization: Record<string, string | null>;
    watts: number;
    price_usd: number | null;
    splits: Record<string, Option>;
  }[];
  recommendation: string[];
  notes: string[];
}

const QUANTIZATIONS = ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M"];

export function PlanPlayground({ model }: { model: string }) {
  const { value: names } = usePoll(() => get<Names>("/console/api/plan/names"), 0);
  const advice = useSignal<Advice | null>(null);
  const refusal = useSignal("");
  const busy = useSignal(false);
  const submit = async (form: HTMLFormElement) => {
    const given = Object.fromEntries(new FormData(form)) as Record<string, string>;
    const known = names!.models.includes(given.model) && given.quantization;
    const rigs = [1, 2].filter((each) => given[`card${each}`]).map((each) => `${given[`count${each}`]}x${given[`card${each}`]}`);
    const asked = new URLSearchParams({
      model: known ? `${given.model}:${given.quantization}` : given.model,
      rigs: rigs.join(","),
      context: given.context,
      parallel: given.parallel,
    });
    busy.value = true;
    refusal.value = "";
    try {
      advice.value = await get<Advice>(`/console/api/plan?${asked}`);
    } catch (error) {
      refusal.value = (error as Error).message || t("serverGone");
    }
    busy.value = false;
  };
  return (
    <section class="panel playground">
      <h2>{t("playground")}</h2>
      <p class="hint">{t("playgroundText")}</p>
      {names && (
        <form
          class="plan-form"
          onSubmit={(event) => {
            event.preventDefault();
            submit(event.currentTarget);
          }}
        >
          <label class="field">
            <span>{t("model")}</span>
            <select name="model" defaultValue="llama-3.3-70b">
              <option value={model}>{model}</option>
              {names.models.map((each) => (
                <option key={each} selected={each === "llama-3.3-70b"}>
                  {each}
                </option>
              ))}
            </select>
          </label>
          <label class="field">
            <span>{t("quantization")}</span>
            <select name="quantization">
              {QUANTIZATIONS.map((each) => (
                <option key={each} selected={each === "Q4_K_M"}>
                  {each}
                </option>
              ))}
            </select>
          </label>
          {[1, 2].map((place) => (
            <div class="field" role="group" aria-label={t("rigNumber", { number: place })} key={place}>
              <span>{t("rigNumber", { number: place })}</span>
              <div class="row">
                <input name={`count${place}`} type="number" min={1} max={64} value={place === 1 ? 2 : 4} aria-label={t("count")} />
                <select name={`card${place}`} aria-label={t("card")}>
                  {place === 2 && <option value="">{t("none")}</option>}
                  {names.cards.map((card) => (
                    <option key={card.name} value={card.name} selected={card.name === (place === 1 ? "W7900DS" : "RTX 4090")}>
                      {card.name} · {bytes(card.memory, 0)}
                    </option>
                  ))}
                </select>
              </div>
            </div>
          ))}
          <label class="field">
            <span>{t("context")}</span>
            <input name="context" type="number" min={256} max={1 << 24} value={8192} required />
          </label>
          <label class="field">
            <span>{t("parallel")}</span>
            <input name="parallel" type="number" min={1} max={1024} value={1} required />
          </label>
          <button type="submit" class="primary" disabled={busy.value}>
            {busy.value ? t("planning") : t("plan")}
          </button>
        </form>
      )}
      {refusal.value && (
        <p class="error" role="alert">
          {refusal.value}
        </p>
      )}
      {advice.value && <Advised advice={advice.value} />}
    </section>
  );
}

const interval = (one: Interval | null | undefined) => (one ? `${rate(one.value)} (${rate(one.low)}–${rate(one.high)})` : "–");

function Advised({ advice }: { advice: Advice }) {
  return (
    <div class="advice" aria-live="polite">
      <p>
        <b>{advice.model.name}</b> · {advice.model.quantization} · {bytes(advice.model.file_bytes)} · {number(advice.model.parameters / 1e9, 1)} B
      </p>
      <div class="scroll-x" tabIndex={0}>
        <table>
          <thead>
            <tr>
              {[t("rig"), t("split"), t("fits"), t("largestContext"), t("perCard"), t("generatingRate"), t("readingRate"), t("watts"), t("price")].map((each) => (
                <th key={each} scope="col">
                  {each}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {advice.rigs.flatMap((rig) =>
              Object.entries(rig.splits).map(([mode, option]) => (
                <tr key={`${rig.name}${mode}`} class={rig.best_split === mode ? "best" : ""}>
                  <th scope="row">{rig.name}</th>
                  <td>{mode}</td>
                  <td title={option.refusal}>{option.fits ? <span class="yes">{t("yes")}</span> : <span class="no">{option.refusal ? t("impossible") : t("no")}</span>}</td>
                  <td>{number(option.largest_context?.["1"])}</td>
                  <td>{option.cards?.length ? `${bytes(Math.max(...option.cards.map((card) => card.total)))} / ${bytes(option.cards[0].usable)}` : "–"}</td>
                  <td>{interval(option.forecast?.tg)}</td>
                  <td>{interval(option.forecast?.pp)}</td>
                  <td>{number(rig.watts)}</td>
                  <td>{rig.price_usd === null ? "–" : `$${number(rig.price_usd)}`}</td>
                </tr>
              )),
            )}
          </tbody>
        </table>
      </div>
      {advice.recommendation.map((line) => (
        <p key={line}>{line}</p>
      ))}
      {advice.notes.length > 0 && (
        <ul class="notes">
          {advice.notes.map((note) => (
            <li key={note}>{note}</li>
          ))}
        </ul>
      )}
    </div>
  );
}
