// Stored benchmarks: what was measured, and whether two runs differ.

import { useSignal } from "@preact/signals";
import { get } from "../lib/api";
import { bytes, date, percent, rate } from "../lib/format";
import { t, type Word } from "../lib/i18n";
import { usePoll } from "../lib/poll";
import { Meter } from "../ui/meter";
import { TopBar } from "../ui/top-bar";
import { Measure } from "./measure";

interface Row {
  id: number;
  test: string;
  test_time: string;
  engine: string;
  engine_version: string;
  model_filename: string;
  model_type: string | null;
  split_mode: string;
  devices: string;
  dtype: string | null;
  kernels: string | null;
  n_threads: number | null;
  avg_ts: number;
  stddev_ts: number;
  median_ts: number | null;
  cpu_info: string;
  gpu_info: string;
  peak_memory_bytes: number | null;
  joules_per_token: number | null;
  ceiling_share: number | null;
}

interface Run {
  run: number;
  rows: Row[];
}

interface Comparison {
  pairs: {
    before: Row;
    after: Row;
    verdict: "same" | "one_cause" | "several_causes" | "no";
    reason: string;
    differing: Record<string, string[]>;
    change: { ratio: number; low: number; high: number; confidence: number; certain: boolean } | null;
  }[];
  alone: Row[];
}

const VERDICTS: Record<string, Word> = { same: "comparable", one_cause: "comparable", several_causes: "withCare", no: "notComparable" };
const name = (path: string) => path.split("/").at(-1)!;

export function Bench() {
  const { value, error, refresh } = usePoll(() => get<{ runs: Run[] }>("/console/api/bench"), 0);
  const chosen = useSignal<number[]>([]);
  const comparison = useSignal<Comparison | null>(null);
  const refusal = useSignal("");
  const choose = (run: number) => {
    const others = chosen.value.filter((one) => one !== run);
    chosen.value = (chosen.value.includes(run) ? others : [...others, run]).slice(-2).sort((a, b) => a - b);
    comparison.value = null;
    refusal.value = "";
    if (chosen.value.length === 2)
      get<Comparison>(`/console/api/bench/compare?before=${chosen.value[0]}&after=${chosen.value[1]}`)
        .then((found) => (comparison.value = found))
        .catch((failure) => (refusal.value = failure.message || t("serverGone")));
  };
  return (
    <>
      <TopBar title={t("bench")}>
        <button type="button" onClick={refresh}>
          {t("refresh")}
        </button>
      </TopBar>
      <div class="content" tabIndex={0}>
        <Measure finished={refresh} />
        {error && (
          <p class="error" role="alert">
            {error.message || t("serverGone")}
          </p>
        )}
        {!value && !error && <p class="page-state">{t("loading")}</p>}
        {value?.runs.length === 0 && (
          <section class="panel empty">
            <h2>{t("noRuns")}</h2>
            <p>{t("noRunsText")}</p>
            <pre tabIndex={0}>rowspan bench -m MODEL -p 512 -n 128 -r 5</pre>
          </section>
        )}
        {value && value.runs.length > 0 && <p class="hint">{t("chooseTwo")}</p>}
        {refusal.value && (
          <p class="error" role="alert">
            {refusal.value}
          </p>
        )}
        {comparison.value && <Compared runs={chosen.value} comparison={comparison.value} />}
        {value?.runs.map((run) => (
          <RunPanel key={run.run} run={run} chosen={chosen.value.includes(run.run)} choose={() => choose(run.run)} />
        ))}
      </div>
    </>
  );
}

function RunPanel({ run, chosen, choose }: { run: Run; chosen: boolean; choose: () => void }) {
  const first = run.rows[0];
  const fastest = Math.max(...run.rows.map((row) => row.avg_ts));
  return (
    <section class={`panel run ${chosen ? "chosen" : ""}`}>
      <div class="now-head">
        <div>
          <h2>
            r{run.run} · {name(first.model_filename)}
          </h2>
          <p class="hint">
            {date(first.test_time)} · {first.gpu_info || first.cpu_info}
          </p>
        </div>
        <label class="check">
          <input type="checkbox" checked={chosen} onChange={choose} />
          <span>{t("compare")}</span>
        </label>
      </div>
      <div class="scroll-x" tabIndex={0}>
        <table>
          <thead>
            <tr>
              {[t("test"), t("engine"), t("split"), t("devices"), t("tokensPerSecond"), "", t("ceiling"), t("peakMemory"), t("joules")].map((each, index) => (
                <th key={index} scope="col">
                  {each}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {run.rows.map((row) => (
              <tr key={row.id}>
                <th scope="row">{row.test}</th>
                <td title={[row.engine_version, row.kernels, row.dtype].filter(Boolean).join(", ")}>{row.engine}</td>
                <td>{row.split_mode}</td>
                <td>{row.devices}</td>
                <td>
                  <b>{rate(row.avg_ts)}</b> ± {rate(row.stddev_ts)}
                </td>
                <td class="rate-bar">
                  <Meter value={row.avg_ts} max={fastest} />
                </td>
                <td>{row.ceiling_share === null ? "–" : percent(row.ceiling_share)}</td>
                <td>{bytes(row.peak_memory_bytes)}</td>
                <td>{rate(row.joules_per_token)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Compared({ runs, comparison }: { runs: number[]; comparison: Comparison }) {
  return (
    <section class="panel compared" aria-live="polite">
      <h2>{t("comparedRuns", { before: `r${runs[0]}`, after: `r${runs[1]}` })}</h2>
      {comparison.pairs.length === 0 && <p class="hint">{t("nothingInCommon")}</p>}
      {comparison.pairs.length > 0 && (
        <div class="scroll-x" tabIndex={0}>
          <table>
            <thead>
              <tr>
                {[t("test"), `r${runs[0]}`, `r${runs[1]}`, t("change"), t("verdict")].map((each) => (
                  <th key={each} scope="col">
                    {each}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {comparison.pairs.map(({ before, after, change, verdict, reason, differing }) => (
                <tr key={before.id}>
                  <th scope="row">
                    {before.test} <small>{before.split_mode}</small>
                  </th>
                  <td>{rate(before.avg_ts)}</td>
                  <td>{rate(after.avg_ts)}</td>
                  <td>
                    {change ? (
                      <span class={change.certain ? (change.ratio > 1 ? "yes" : "no") : ""}>
                        {change.ratio > 1 ? "+" : ""}
                        {percent(change.ratio - 1, 1)}{" "}
                        <small>
                          ({percent(change.low - 1, 1)} … {percent(change.high - 1, 1)})
                        </small>
                      </span>
                    ) : (
                      "–"
                    )}
                  </td>
                  <td title={Object.values(differing).flat().join(", ")}>
                    <b>{t(VERDICTS[verdict])}.</b> {reason}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {comparison.alone.length > 0 && <p class="hint">{t("withoutCounterpart", { tests: comparison.alone.map((row) => row.test).join(", ") })}</p>}
    </section>
  );
}
