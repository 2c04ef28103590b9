// How a model lies on its devices, as one picture. Layers run from left to right; ranks that share layers lie one upon the
// other, as high as their share of heads.

import { t } from "../lib/i18n";

export interface Span {
  start: number;
  stop: number;
}

export interface Part {
  rank: number;
  device: string;
  stage: number;
  layers: Span;
  heads: Span;
}

const COLORS = 6;
const MOST_CELLS = 96; // a stage of more layers is drawn in fewer cells

export const size = (span: Span) => span.stop - span.start;
export const range = (span: Span) => (size(span) <= 0 ? "–" : size(span) === 1 ? `${span.start}` : `${span.start}–${span.stop - 1}`);
export const colorOf = (part: Part) => `held c${part.rank % COLORS}`;

export function Band({ parts }: { parts: Part[] }) {
  const stages = [...Map.groupBy(parts, (one) => `${one.stage} ${one.layers.start}`).values()];
  return (
    <div class="band" role="img" aria-label={parts.map((one) => `${one.device}: ${t("layers")} ${range(one.layers)}`).join("; ")}>
      {stages.map((ranks) => (
        <div class="stage" key={ranks[0].rank} style={{ flexGrow: size(ranks[0].layers) }}>
          {ranks.map((one) => (
            <div
              key={one.rank}
              class={colorOf(one)}
              style={{ flexGrow: size(one.heads) || 1 }}
              title={`${one.device}: ${t("layers")} ${range(one.layers)}, ${t("heads")} ${range(one.heads)}`}
            >
              {Array.from({ length: Math.min(MOST_CELLS, size(one.layers)) }, (_, index) => (
                <i key={index} />
              ))}
            </div>
          ))}
        </div>
      ))}
    </div>
  );
}
