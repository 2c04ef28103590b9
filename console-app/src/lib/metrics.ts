// Reads Prometheus' text format, as /metrics has it.

export interface Sample {
  labels: Record<string, string>;
  value: number;
}

export type Metrics = ReadonlyMap<string, Sample[]>;

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:\\.|[^"\\])*)"/g;

export function parse(text: string): Metrics {
  const found = new Map<string, Sample[]>();
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : LINE.exec(line);
    if (!match) continue;
    const labels: Record<string, string> = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) labels[name] = value.replace(/\\(.)/g, (_, each) => (each === "n" ? "\n" : each));
    const samples = found.get(match[1]) ?? [];
    samples.push({ labels, value: Number(match[3].replace("Inf", "Infinity")) });
    found.set(match[1], samples);
  }
  return found;
}

export const total = (metrics: Metrics, name: string): number => (metrics.get(name) ?? []).reduce((sum, one) => sum + one.value, 0);

export interface Histogram {
  buckets: { upTo: number; count: number }[]; // counts of each bucket alone
  count: number;
  mean: number | null;
}

export function histogram(metrics: Metrics, name: string): Histogram {
  let before = 0;
  const buckets = (metrics.get(`${name}_bucket`) ?? []).map(({ labels, value }) => {
    const count = value - before;
    before = value;
    return { upTo: Number(labels.le.replace("+Inf", "Infinity")), count };
  });
  const count = total(metrics, `${name}_count`);
  return { buckets, count, mean: count ? total(metrics, `${name}_sum`) / count : null };
}

/** The bound of the bucket in which a share of all values ends. */
export function quantile({ buckets, count }: Histogram, share: number): number | null {
  let seen = 0;
  for (const { upTo, count: here } of buckets) {
    seen += here;
    if (count && seen >= share * count) return upTo;
  }
  return null;
}
