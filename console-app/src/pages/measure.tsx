// Starts a benchmark of the served model, and follows it.

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { del, get, post } from "../lib/api";
import { rate } from "../lib/format";
import { t, type Word } from "../lib/i18n";
import { usePoll } from "../lib/poll";

interface Job {
  running: boolean;
  stopped: boolean;
  step: { done: number; total: number; text: string } | null;
  rows: { test: string; engine: string; split_mode: string; devices: string; avg_ts: number; stddev_ts: number }[];
  error: string | null;
}

interface State {
  job: Job | null;
  model: string;
  usual: { devices: string; split_mode: string } | null;
}

const FIELDS: [string, Word, string][] = [
  ["prompt", "promptSizes", "512"],
  ["generated", "answerSizes", "128"],
  ["depth", "depths", "0"],
  ["parallel", "parallel", "1"],
];

export function Measure({ finished }: { finished: () => void }) {
  const { value, refresh } = usePoll(() => get<State>("/console/api/bench/job"), 1);
  const refusal = useSignal("");
  const running = value?.job?.running ?? false;
  useEffect(() => {
    if (value?.job && !running) finished();
  }, [running]);
  if (!value?.usual) return null;
  const start = (form: HTMLFormElement) => {
    const given = Object.fromEntries(new FormData(form)) as Record<string, string>;
    const modes = new FormData(form).getAll("mode");
    refusal.value = "";
    post("/console/api/bench/job", {
      ...Object.fromEntries(FIELDS.map(([name]) => [name, given[name].replace(/\s/g, "")])),
      devices: given.devices.replace(/\s/g, ""),
      split_mode: modes.length ? modes.join(",") : value.usual!.split_mode,
      repetitions: Number(given.repetitions),
    })
      .then(refresh)
      .catch((error) => (refusal.value = error.message || t("serverGone")));
  };
  return (
    <section class="panel measure">
      <h2>{t("measure", { model: value.model })}</h2>
      <p class="hint">{t("measureText")}</p>
      {!running && (
        <form
          class="plan-form"
          onSubmit={(event) => {
            event.preventDefault();
            start(event.currentTarget);
          }}
        >
          {FIELDS.map(([name, word, usual]) => (
            <label class="field" key={name}>
              <span>{t(word)}</span>
              <input name={name} defaultValue={usual} pattern="[0-9][0-9,+*\- ]*" required />
            </label>
          ))}
          <label class="field">
            <span>{t("devices")}</span>
            <input name="devices" defaultValue={value.usual.devices} required />
          </label>
          <label class="field">
            <span>{t("repetitions")}</span>
            <input name="repetitions" type="number" min={1} max={100} defaultValue="5" required />
          </label>
          <div class="field" role="group" aria-label={t("split")}>
            <span>{t("split")}</span>
            <div class="row modes">
              {["none", "layer", "row"].map((mode) => (
                <label class="check" key={mode}>
                  <input type="checkbox" name="mode" value={mode} defaultChecked={mode === value.usual!.split_mode} />
                  <span>{mode}</span>
                </label>
              ))}
            </div>
          </div>
          <button type="submit" class="primary">
            {t("start")}
          </button>
        </form>
      )}
      {refusal.value && (
        <p class="error" role="alert">
          {refusal.value}
        </p>
      )}
      {value.job && (running || value.job.rows.length > 0 || value.job.error) && <Progress job={value.job} refresh={refresh} />}
    </section>
  );
}

function Progress({ job, refresh }: { job: Job; refresh: () => void }) {
  const fastest = Math.max(...job.rows.map((row) => row.avg_ts));
  return (
    <div class="job" aria-live="polite">
      {job.running && (
        <div class="row">
          <span class="progress grow">
            <progress value={job.step ? job.step.done / job.step.total : undefined} aria-label={t("measuring")} />
            <small>{job.step ? `${job.step.done + 1}/${job.step.total} · ${job.step.text}` : t("measuring")}</small>
          </span>
          <button type="button" onClick={() => del("/console/api/bench/job").then(refresh, refresh)}>
            {t("stop")}
          </button>
        </div>
      )}
      {job.error && <pre class="refusal" tabIndex={0}>{job.error}</pre>}
      {job.stopped && <p class="hint">{t("stopped")}</p>}
      {job.rows.length > 0 && (
        <ul class="bars wide">
          {job.rows.map((row, index) => (
            <li key={index}>
              <span>
                {row.test} · {row.split_mode}
              </span>
              <i style={{ width: `${(100 * row.avg_ts) / fastest}%` }} />
              <b>
                {rate(row.avg_ts)} ± {rate(row.stddev_ts)}
              </b>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
