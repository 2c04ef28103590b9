// What `rowspan doctor` finds on this machine.

import { get } from "../lib/api";
import { copy } from "../lib/copy";
import { t, type Word } from "../lib/i18n";
import { usePoll } from "../lib/poll";
import { Icon } from "../ui/icons";
import { toast } from "../ui/toast";

interface Verdict {
  id: string;
  title: string;
  state: "finding" | "unknown" | "pass" | "not applicable" | string;
  concerns_this_split: boolean;
  impact: string;
  sureness: string;
  healthy: string;
  evidence: string[];
  log: { time: string | null; line: string }[];
  symptom: string;
  fix: string;
  commands: Record<string, string[]>;
  sources: string[];
}

const IMPACTS: Record<string, Word> = { breaks: "impactBreaks", slow: "impactSlows", note: "impactNote" };

export function Doctor() {
  const { value, error, refresh } = usePoll(() => get<{ checks: Verdict[] }>("/console/api/doctor"), 0);
  const checks: Verdict[] = value?.checks ?? [];
  const findings = checks.filter((one) => one.state === "finding");
  const unknown = checks.filter((one) => one.state === "unknown");
  const passed = checks.filter((one) => one.state === "pass");
  return (
    <section class="panel doctor">
      <div class="now-head">
        <h2>{t("doctor")}</h2>
        <button type="button" onClick={refresh}>
          {t("checkAgain")}
        </button>
      </div>
      {error && (
        <p class="error" role="alert">
          {error.message || t("serverGone")}
        </p>
      )}
      {!value && !error && <p class="hint">{t("examining")}</p>}
      {value && (
        <p class="hint">
          {t("doctorSummary", { findings: findings.length, passed: passed.length, unknown: unknown.length })}
        </p>
      )}
      {findings.map((one) => (
        <Finding key={one.id} one={one} />
      ))}
      {value && findings.length === 0 && (
        <p class="healthy">
          <Icon name="check" /> {t("healthy")}
        </p>
      )}
      {unknown.length > 0 && (
        <details>
          <summary>{t("unknownChecks", { count: unknown.length })}</summary>
          <ul class="notes">
            {unknown.map((one) => (
              <li key={one.id}>
                <b>{one.title}</b> {one.evidence.join(" ")} {one.fix}
              </li>
            ))}
          </ul>
        </details>
      )}
      {passed.length > 0 && (
        <details>
          <summary>{t("passedChecks", { count: passed.length })}</summary>
          <ul class="notes">
            {passed.map((one) => (
              <li key={one.id}>
                <b>{one.title}</b> {one.evidence.join(" ")}
              </li>
            ))}
          </ul>
        </details>
      )}
    </section>
  );
}

function Finding({ one }: { one: Verdict }) {
  const commands = Object.values(one.commands).flat();
  return (
    <article class={`finding ${one.impact} ${one.concerns_this_split ? "" : "aside"}`}>
      <h3>
        <span class="badge">{IMPACTS[one.impact] ? t(IMPACTS[one.impact]) : one.impact}</span> {one.title}
      </h3>
      <dl>
        <dt>{t("evidence")}</dt>
        <dd>
          {one.evidence.map((line) => (
            <p key={line}>{line}</p>
          ))}
        </dd>
        {one.log.length > 0 && (
          <>
            <dt>{t("log")}</dt>
            <dd>
              <pre tabIndex={0}>{one.log.slice(-5).map((hit) => hit.line).join("\n")}</pre>
            </dd>
          </>
        )}
        <dt>{t("symptom")}</dt>
        <dd>{one.symptom}</dd>
        <dt>{t("fix")}</dt>
        <dd>
          {one.fix}
          {commands.map((command) => (
            <pre class="command" key={command} tabIndex={0}>
              <code>{command}</code>
              <button
                type="button"
                class="tool"
                aria-label={t("copy")}
                title={t("copy")}
                onClick={() => copy(command).then(() => toast(t("copied")))}
              >
                <Icon name="copy" size={16} />
              </button>
            </pre>
          ))}
        </dd>
      </dl>
    </article>
  );
}
