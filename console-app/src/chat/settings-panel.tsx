// The settings of one conversation.

import { useSignal } from "@preact/signals";
import { t, type Word } from "../lib/i18n";
import { ask } from "../ui/dialog";
import { Icon } from "../ui/icons";
import { toast } from "../ui/toast";
import type { Conversation } from "./conversation";
import { models } from "./models";
import { keepDefaults, keepPresets, presets, type Settings, type Variant } from "./settings";

type NumberField = "temperature" | "topP" | "topK" | "minP" | "repeatPenalty" | "maxTokens" | "seed";
const NUMBERS: [NumberField, Word, number, number, number | "any"][] = [
  ["temperature", "temperature", 0, 2, 0.1],
  ["topP", "topP", 0, 1, 0.05],
  ["topK", "topK", 0, 1000, 1],
  ["minP", "minP", 0, 1, 0.01],
  ["repeatPenalty", "repeatPenalty", 0.5, 2, 0.05],
  ["maxTokens", "maxTokens", 1, 1e7, 1],
  ["seed", "seed", 0, 2 ** 53, 1],
];

export function SettingsPanel({ conversation, close }: { conversation: Conversation; close: () => void }) {
  const settings = conversation.settings.value;
  const change = (part: Partial<Settings>) => {
    const merged = { ...conversation.settings.value, ...part };
    conversation.settings.value = Object.fromEntries(Object.entries(merged).filter(([, value]) => value !== undefined));
    conversation.save({ settings: conversation.settings.value }).catch(() => toast(t("serverGone"), "error"));
  };
  return (
    <aside class="settings" aria-label={t("settings")}>
      <header>
        <h2>{t("settings")}</h2>
        <button type="button" class="tool" aria-label={t("close")} onClick={close}>
          <Icon name="close" />
        </button>
      </header>
      <p class="hint">{t("settingsHint")}</p>
      <Presets settings={settings} change={change} />
      <label class="field">
        <span>{t("systemPrompt")}</span>
        <textarea
          rows={5}
          placeholder={t("systemPlaceholder")}
          value={settings.system ?? ""}
          onChange={(event) => change({ system: event.currentTarget.value || undefined })}
        />
      </label>
      <div class="number-fields">
        {NUMBERS.map(([field, word, min, max, step]) => (
          <label class="field" key={field}>
            <span>{t(word)}</span>
            <input
              type="number"
              inputMode="decimal"
              min={min}
              max={max}
              step={step}
              placeholder={t("default")}
              value={settings[field] ?? ""}
              onChange={(event) => {
                const value = event.currentTarget.valueAsNumber;
                change({ [field]: Number.isNaN(value) ? undefined : Math.min(max, Math.max(min, value)) });
              }}
            />
          </label>
        ))}
        <label class="field">
          <span>{t("reasoning")}</span>
          <select value={settings.thinking ?? ""} onChange={(event) => change({ thinking: (event.currentTarget.value || undefined) as "on" })}>
            <option value="">{t("default")}</option>
            <option value="on">{t("on")}</option>
            <option value="off">{t("off")}</option>
          </select>
        </label>
      </div>
      <label class="field">
        <span>{t("stopTexts")}</span>
        <textarea
          rows={2}
          placeholder={t("stopPlaceholder")}
          value={settings.stop ?? ""}
          onChange={(event) => change({ stop: event.currentTarget.value || undefined })}
        />
      </label>
      <Schema settings={settings} change={change} />
      <label class="check">
        <input type="checkbox" checked={settings.tokens ?? false} onChange={(event) => change({ tokens: event.currentTarget.checked || undefined })} />
        <span>
          {t("tokenView")}
          <small>{t("tokenViewHelp")}</small>
        </span>
      </label>
      <Compare settings={settings} change={change} />
      <button
        type="button"
        onClick={() =>
          keepDefaults(settings)
            .then(() => toast(t("defaultsKept")))
            .catch(() => toast(t("serverGone"), "error"))
        }
      >
        {t("keepAsDefaults")}
      </button>
    </aside>
  );
}

function Compare({ settings, change }: { settings: Settings; change: (part: Partial<Settings>) => void }) {
  const other = settings.compare;
  const set = (part: Variant) => change({ compare: { ...other, ...part } });
  return (
    <fieldset class="compare">
      <label class="check">
        <input
          type="checkbox"
          checked={other !== undefined}
          onChange={(event) => change({ compare: event.currentTarget.checked ? { model: settings.model, temperature: 0 } : undefined })}
        />
        <span>
          {t("compareAnswers")}
          <small>{t("compareHelp")}</small>
        </span>
      </label>
      {other && (
        <div class="number-fields">
          <label class="field">
            <span>{t("model")}</span>
            <select value={other.model ?? ""} onChange={(event) => set({ model: event.currentTarget.value || undefined })}>
              <option value="">{t("theSame")}</option>
              {models.value.map((model) => (
                <option key={model.id}>{model.id}</option>
              ))}
            </select>
          </label>
          <label class="field">
            <span>{t("temperature")}</span>
            <input
              type="number"
              min={0}
              max={2}
              step={0.1}
              value={other.temperature ?? ""}
              onChange={(event) => set({ temperature: Number.isNaN(event.currentTarget.valueAsNumber) ? undefined : event.currentTarget.valueAsNumber })}
            />
          </label>
        </div>
      )}
    </fieldset>
  );
}

function Schema({ settings, change }: { settings: Settings; change: (part: Partial<Settings>) => void }) {
  const wrong = useSignal("");
  return (
    <label class="field">
      <span>{t("jsonSchema")}</span>
      <textarea
        rows={4}
        class="code-input"
        spellcheck={false}
        placeholder={'{"type": "object", "properties": {…}}'}
        value={settings.schema ?? ""}
        aria-invalid={wrong.value !== ""}
        onChange={(event) => {
          const text = event.currentTarget.value.trim();
          wrong.value = "";
          try {
            if (text) JSON.parse(text);
          } catch (error) {
            wrong.value = (error as Error).message;
          }
          change({ schema: text || undefined });
        }}
      />
      <small class={wrong.value ? "refusal" : ""}>{wrong.value || t("schemaHelp")}</small>
    </label>
  );
}

function Presets({ settings, change }: { settings: Settings; change: (part: Partial<Settings>) => void }) {
  const current = presets.value.find((one) => one.system === settings.system);
  return (
    <div class="field">
      <span id="presets-label">{t("presets")}</span>
      <div class="row">
        <select
          aria-labelledby="presets-label"
          value={current?.name ?? ""}
          onChange={(event) => {
            const chosen = presets.value.find((one) => one.name === event.currentTarget.value);
            change({ system: chosen?.system });
          }}
        >
          <option value="">{presets.value.length ? t("none") : t("noPresets")}</option>
          {presets.value.map((one) => (
            <option key={one.name} value={one.name}>
              {one.name}
            </option>
          ))}
        </select>
        {current ? (
          <button
            type="button"
            class="tool"
            aria-label={t("deletePreset")}
            title={t("deletePreset")}
            onClick={() => keepPresets(presets.value.filter((one) => one !== current)).catch(() => toast(t("serverGone"), "error"))}
          >
            <Icon name="trash" />
          </button>
        ) : (
          <button
            type="button"
            class="tool"
            aria-label={t("keepPreset")}
            title={t("keepPreset")}
            disabled={!settings.system}
            onClick={async () => {
              const name = await ask({ title: t("keepPreset"), input: settings.system!.slice(0, 30), yes: t("keep") });
              if (!name) return;
              const others = presets.value.filter((one) => one.name !== name);
              keepPresets([...others, { name, system: settings.system! }]).catch(() => toast(t("serverGone"), "error"));
            }}
          >
            <Icon name="plus" />
          </button>
        )}
      </div>
    </div>
  );
}
