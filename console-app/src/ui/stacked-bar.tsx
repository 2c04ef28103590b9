// Bytes of memory by what they are for.

import { bytes } from "../lib/format";
import { t, type Word } from "../lib/i18n";

export interface Part {
  word: Word;
  kind: "weights" | "cache" | "buffers" | "others" | "free";
  size: number;
}

/** Args: others: used by what is none of ours; null where the use is not known. */
export function memoryParts(weights: number, cache: number, buffers: number, total: number, free: number | null): Part[] {
  const used = free === null ? weights + cache + buffers : total - free;
  // What a card's cache takes is decided when weights are loaded; the plan knows its limit.
  const held = Math.max(0, Math.min(cache, used - weights - buffers));
  const parts: Part[] = [
    { word: "weights", kind: "weights", size: Math.min(weights, used) },
    { word: "kvCache", kind: "cache", size: held },
    { word: "buffers", kind: "buffers", size: Math.min(buffers, Math.max(0, used - weights)) },
    { word: "otherPrograms", kind: "others", size: Math.max(0, used - weights - held - buffers) },
    { word: "free", kind: "free", size: Math.max(0, total - used) },
  ];
  return parts;
}

export function StackedBar({ parts, total }: { parts: Part[]; total: number }) {
  const told = parts.map((part) => `${t(part.word)} ${bytes(part.size)}`).join(", ");
  return (
    <div class="stacked">
      <div class="bar" role="img" aria-label={told}>
        {parts.map((part) => (
          <i key={part.kind} class={part.kind} style={{ width: `${(100 * part.size) / total}%` }} title={`${t(part.word)}: ${bytes(part.size)}`} />
        ))}
      </div>
      <ul class="legend">
        {parts
          .filter((part) => part.size > 0)
          .map((part) => (
            <li key={part.kind}>
              <i class={part.kind} /> {t(part.word)} <b>{bytes(part.size)}</b>
            </li>
          ))}
      </ul>
    </div>
  );
}
