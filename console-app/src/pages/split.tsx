// How the model is cut: layers from left to right, ranks one below the other.

import { bytes, number } from "../lib/format";
import { t } from "../lib/i18n";

interface Span {
  start: number;
  stop: number;
}

export interface Holding {
  rank: number;
  device: string;
  stage: number;
  layers: Span;
  heads: Span;
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

const COLORS = 6;
const size = (span: Span) => span.stop - span.start;
const range = (span: Span) => (size(span) <= 0 ? "–" : size(span) === 1 ? `${span.start}` : `${span.start}–${span.stop - 1}`);

export function Split({ plan }: { plan: Plan }) {
  const cells = (span: Span, all: number) => {
    const step = Math.max(1, Math.ceil(size(span) / 64));
    return Array.from({ length: Math.ceil(size(span) / step) }, (_, index) => (
      <i key={index} style={{ height: `${Math.max(12, 100 * share(all))}%` }} />
    ));
  };
  // The height of a layer's part is the share of query heads that a rank has of it.
  const share = (heads: number) => (plan.n_heads ? heads / plan.n_heads : 1);
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
      <div class="split" role="img" aria-label={plan.holdings.map((one) => `${one.device}: ${t("layers")} ${range(one.layers)}`).join("; ")}>
        {plan.holdings.map((one) => (
          <div class="rank" key={one.rank}>
            <span class="rank-name">{one.device}</span>
            <div class="layers">
              <span style={{ flexGrow: one.layers.start }} class="space" />
              <span style={{ flexGrow: size(one.layers) }} class={`held c${one.rank % COLORS}`} title={`${t("layers")} ${range(one.layers)}, ${t("heads")} ${range(one.heads)}`}>
                {cells(one.layers, size(one.heads))}
              </span>
              <span style={{ flexGrow: plan.n_layers - one.layers.stop }} class="space" />
            </div>
          </div>
        ))}
        <div class="rank scale">
          <span class="rank-name" />
          <div>
            <span>{t("layer")} 0</span>
            <span>{plan.n_layers - 1}</span>
          </div>
        </div>
      </div>
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
