// An answer token by token: how likely each was, and what else could have stood there.

import { useState } from "preact/hooks";
import { percent } from "../lib/format";
import { t } from "../lib/i18n";
import { Meter } from "../ui/meter";
import type { TokenChance } from "./conversation";

/** 0 for a token that was all but certain, to 5 for one that nobody would have guessed. */
const surprise = (logprob: number) => [0.9, 0.6, 0.35, 0.15, 0.05].filter((bound) => Math.exp(logprob) < bound).length;

const visible = (text: string) => text.replace(/ /g, "·").replace(/\n/g, "⏎").replace(/\t/g, "⇥") || "∅";

export function TokenView({ tokens }: { tokens: TokenChance[] }) {
  const [chosen, choose] = useState<number | null>(null);
  const token = chosen === null ? null : tokens[chosen];
  return (
    <div class="token-view">
      <div class="token-text" onPointerLeave={() => choose(null)}>
        {tokens.map((one, index) => (
          <span
            key={index}
            class={`token s${surprise(one.logprob)} ${index === chosen ? "chosen" : ""}`}
            tabIndex={0}
            onPointerEnter={() => choose(index)}
            onFocus={() => choose(index)}
          >
            {one.text}
          </span>
        ))}
      </div>
      <div class="token-detail" aria-live="polite">
        {token ? (
          <table>
            <caption>{t("likeliest")}</caption>
            <tbody>
              {(token.top.some(([text]) => text === token.text) ? token.top : [...token.top, [token.text, token.logprob] as [string, number]]).map(
                ([text, logprob]) => (
                  <tr class={text === token.text ? "chosen" : ""} key={text}>
                    <th scope="row">
                      <code>{visible(text)}</code>
                    </th>
                    <td>
                      <Meter value={Math.exp(logprob)} max={1} />
                    </td>
                    <td>{percent(Math.exp(logprob), 1)}</td>
                  </tr>
                ),
              )}
            </tbody>
          </table>
        ) : (
          <p class="hint">{t("tokenHint")}</p>
        )}
      </div>
    </div>
  );
}
