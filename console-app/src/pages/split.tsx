// How the model is cut, drawn and in figures.

import { bytes, number } from "../lib/format";
import { t } from "../lib/i18n";
import { Band, colorOf, range, type Part, type Span } from "../ui/band";

export interface Holding extends Part {
  kv_heads: Span;
  ffn: Span;
  embedding: Span | null;
  head: Span | null;
  weights: number;
  cache_per_token: number;
  cache: number;
  buffers: number;
  sent_per_token: number;
  sent_per_prompt: number;
}

export interface Plan {
  mode: string;
  context_size: number;
  cache_tokens: number;
  n_layers: number;
  n_heads: number;
  n_kv_heads: number;
  ffn_size: number;
  vocab_size: number;
  holdings: Holding[];
  talks: { act: string; ranks: number[]; transport: string; why: string }[];
  notes: string[];
}

const ranksPerStage = (plan: Plan) => plan.holdings.length / new Set(plan.holdings.map((one) => one.layers.start)).size;

export function Split({ plan }: { plan: Plan }) {
  return (
    <section class="panel">
      <h2>{t("split")}</h2>
      <p class="hint">
        {t("splitText", {
          mode: plan.mode,
          ranks: plan.holdings.length,
          layers: plan.n_layers,
          context: number(plan.context_size),
          cache: number(plan.cache_tokens),
        })}
      </p>
      <Band parts={plan.holdings} />
      <div class="band-scale" aria-hidden="true">
        <span>{t("layer")} 0</span>
        <span>{plan.n_layers - 1}</span>
      </div>
      <ul class="legend">
        {plan.holdings.map((one) => (
          <li key={one.rank} class={colorOf(one)}>
            <i /> <b>{one.device}</b> {t("layers")} {range(one.layers)}
            {ranksPerStage(plan) > 1 && `, ${t("heads")} ${range(one.heads)}`}
          </li>
        ))}
      </ul>
      <div class="scroll-x" tabIndex={0}>
        <table>
          <thead>
            <tr>
              {[t("rank"), t("device"), t("layers"), t("heads"), t("kvHeads"), t("ffn"), t("vocabulary"), t("weights"), t("kvCache"), t("buffers"), t("sentPerToken")].map((each) => (
                <th key={each} scope="col">
                  {each}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {plan.holdings.map((one) => (
              <tr key={one.rank}>
                <td>{one.rank}</td>
                <td>{one.device}</td>
                <td>{range(one.layers)}</td>
                <td>{range(one.heads)}</td>
                <td>{range(one.kv_heads)}</td>
                <td>{range(one.ffn)}</td>
                <td>{one.head ? range(one.head) : one.embedding ? range(one.embedding) : "–"}</td>
                <td>{bytes(one.weights)}</td>
                <td title={t("perToken", { size: bytes(one.cache_per_token) })}>{bytes(one.cache)}</td>
                <td>{bytes(one.buffers)}</td>
                <td>{bytes(one.sent_per_token)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {plan.talks.length > 0 && (
        <ul class="talks">
          {plan.talks.map((talk, index) => (
            <li key={index}>
              {t("talk", { ranks: talk.ranks.join(", "), act: talk.act, transport: talk.transport })} {talk.why && <small>({talk.why})</small>}
            </li>
          ))}
        </ul>
      )}
      {plan.notes.length > 0 && (
        <ul class="notes">
          {plan.notes.map((note) => (
            <li key={note}>{note}</li>
          ))}
        </ul>
      )}
    </section>
  );
}
