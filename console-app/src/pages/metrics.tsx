// How the server has done since its start, from the same figures that Prometheus gets.

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get, getText } from "../lib/api";
import { clock, number, percent, rate, seconds } from "../lib/format";
import { t, type Word } from "../lib/i18n";
import { histogram, parse, quantile, total, type Histogram, type Metrics } from "../lib/metrics";
import { usePoll } from "../lib/poll";
import { LiveChart } from "../ui/chart";
import { TopBar } from "../ui/top-bar";
import { Tile } from "./rig";

const SECONDS = 2;
const KEPT = 200;

interface Look {
  time: number;
  metrics: Metrics;
}

export function MetricsPage() {
  const { value, error } = usePoll<Look>(async () => ({ metrics: parse(await getText("/metrics")), time: Date.now() / 1000 }), SECONDS);
  const history = useSignal<Look[]>([]);
  useEffect(() => {
    if (value) history.value = [...history.value, value].slice(-KEPT);
  }, [value]);
  return (
    <>
      <TopBar title={t("metrics")}>
        <a class="button" href="/metrics" target="_blank" rel="noreferrer">
          /metrics
        </a>
      </TopBar>
      <div class="content" tabIndex={0}>
        {error && (
          <p class="error" role="alert">
            {error.message || t("serverGone")}
          </p>
        )}
        {!value && !error && <p class="page-state">{t("loading")}</p>}
        {value && <Figures now={value.metrics} history={history.value} />}
        {value && <Recent />}
      </div>
    </>
  );
}

function Figures({ now, history }: { now: Metrics; history: Look[] }) {
  const prompt = total(now, "rowspan_prompt_tokens_total");
  const hits = total(now, "rowspan_prefix_hit_tokens_total");
  const rates = (name: string) =>
    history.map((look, index) =>
      index ? Math.max(0, (total(look.metrics, name) - total(history[index - 1].metrics, name)) / (look.time - history[index - 1].time)) : null,
    );
  const generated = rates("rowspan_generated_tokens_total");
  const read = rates("rowspan_prompt_tokens_total");
  const times = history.map((look) => look.time);
  const running = history.map((look) => total(look.metrics, "rowspan_requests_running"));
  const waiting = history.map((look) => total(look.metrics, "rowspan_requests_waiting"));
  return (
    <>
      <section class="panel">
        <dl class="tiles">
          <Tile word={t("answers")} value={number(total(now, "rowspan_answers_total"))} />
          <Tile word={t("generatedTokens")} value={number(total(now, "rowspan_generated_tokens_total"))} />
          <Tile word={t("promptTokens")} value={number(prompt)} />
          <Tile word={t("prefixHits")} value={prompt ? percent(hits / prompt) : "–"} />
          <Tile word={t("errors")} value={number(total(now, "rowspan_errors_total"))} />
          <Tile word={t("preemptions")} value={number(total(now, "rowspan_preemptions_total"))} />
        </dl>
        <div class="charts">
          <LiveChart title={t("generating")} value={`${rate(generated.at(-1) ?? 0)} ${t("tokensPerSecond")}`} times={times} format={(value) => rate(value)} lines={[{ label: t("generating"), color: "--accent", values: generated }]} />
          <LiveChart title={t("reading")} value={`${rate(read.at(-1) ?? 0)} ${t("tokensPerSecond")}`} times={times} format={(value) => rate(value)} lines={[{ label: t("reading"), color: "--cache", values: read }]} />
          <LiveChart
            title={t("runningAndWaiting")}
            value={`${running.at(-1) ?? 0} · ${waiting.at(-1) ?? 0}`}
            times={times}
            format={(value) => (value % 1 ? "" : number(value))}
            lines={[
              { label: t("running"), color: "--accent", values: running },
              { label: t("waitingRequests"), color: "--buffers", values: waiting },
            ]}
          />
        </div>
      </section>
      <div class="histograms">
        <Latency word="firstToken" found={histogram(now, "rowspan_time_to_first_token_seconds")} />
        <Latency word="betweenTokens" found={histogram(now, "rowspan_inter_token_latency_seconds")} />
        <Latency word="wholeAnswer" found={histogram(now, "rowspan_request_duration_seconds")} />
      </div>
      <div class="histograms">
        <Counts word="endings" rows={(now.get("rowspan_answers_total") ?? []).map(({ labels, value }) => [labels.finish, value])} />
        <Counts word="errors" rows={(now.get("rowspan_errors_total") ?? []).map(({ labels, value }) => [labels.code, value])} />
        <Counts word="requests" rows={(now.get("rowspan_http_requests_total") ?? []).filter(({ labels }) => !labels.endpoint.startsWith("/console/")).map(({ labels, value }) => [`${labels.endpoint} · ${labels.status}`, value])} />
      </div>
    </>
  );
}

interface Request {
  time: number;
  method: string;
  path: string;
  status: number;
  seconds: number;
  error: string | null;
}

function Recent() {
  const { value } = usePoll(() => get<{ requests: Request[] }>("/console/api/requests"), SECONDS * 2);
  const failing = useSignal(false);
  const shown = (value?.requests ?? []).filter((one) => !failing.value || one.status >= 400);
  return (
    <section class="panel">
      <div class="now-head">
        <div>
          <h2>{t("recentRequests")}</h2>
          <p class="hint">{t("recentText")}</p>
        </div>
        <label class="check">
          <input type="checkbox" checked={failing.value} onChange={(event) => (failing.value = event.currentTarget.checked)} />
          <span>{t("onlyErrors")}</span>
        </label>
      </div>
      {value && shown.length === 0 && <p class="hint">{t("nothingYet")}</p>}
      {shown.length > 0 && (
        <div class="scroll-x" tabIndex={0}>
          <table>
            <thead>
              <tr>
                {[t("time"), t("request"), t("status"), t("took"), t("error")].map((each) => (
                  <th key={each} scope="col">
                    {each}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {shown.slice(0, 100).map((one) => (
                <tr key={`${one.time}${one.path}`}>
                  <td>{clock(one.time)}</td>
                  <td>
                    {one.method} {one.path}
                  </td>
                  <td>
                    <span class={`badge ${one.status < 400 ? "good" : "bad"}`}>{one.status}</span>
                  </td>
                  <td>{seconds(one.seconds)}</td>
                  <td>{one.error ?? ""}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

function Latency({ word, found }: { word: Word; found: Histogram }) {
  const filled = found.buckets.map((bucket) => bucket.count > 0);
  const first = Math.max(0, filled.indexOf(true) - 1);
  const shown = found.buckets.slice(first, filled.lastIndexOf(true) + 2);
  const most = Math.max(...shown.map((bucket) => bucket.count), 1);
  const upTo = (value: number | null) => (value === null ? "–" : value === Infinity ? "∞" : `≤ ${seconds(value)}`);
  return (
    <section class="panel">
      <h2>{t(word)}</h2>
      {found.count === 0 ? (
        <p class="hint">{t("nothingYet")}</p>
      ) : (
        <>
          <p class="hint">
            {t("mean")} {seconds(found.mean)} · p50 {upTo(quantile(found, 0.5))} · p95 {upTo(quantile(found, 0.95))} · p99 {upTo(quantile(found, 0.99))}
          </p>
          <ul class="bars">
            {shown.map((bucket) => (
              <li key={bucket.upTo}>
                <span>{upTo(bucket.upTo)}</span>
                <i style={{ width: `${(100 * bucket.count) / most}%` }} class={bucket.count ? "" : "none"} />
                <small>{bucket.count ? number(bucket.count) : ""}</small>
              </li>
            ))}
          </ul>
        </>
      )}
    </section>
  );
}

function Counts({ word, rows }: { word: Word; rows: [string, number][] }) {
  const shown = rows.filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1]);
  return (
    <section class="panel">
      <h2>{t(word)}</h2>
      {shown.length === 0 && <p class="hint">{t("nothingYet")}</p>}
      <ul class="counts">
        {shown.slice(0, 30).map(([name, count]) => (
          <li key={name}>
            <span>{name}</span> <b>{number(count)}</b>
          </li>
        ))}
      </ul>
    </section>
  );
}
