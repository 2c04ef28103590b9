// What a conversation asks of the model, and the presets of system prompts.

import { signal } from "@preact/signals";
import { get, put } from "../lib/api";

export interface Settings {
  model?: string;
  system?: string;
  temperature?: number;
  topP?: number;
  topK?: number;
  minP?: number;
  repeatPenalty?: number;
  maxTokens?: number;
  seed?: number;
  stop?: string;
  schema?: string;
  thinking?: "on" | "off";
  tokens?: boolean; // ask for log-probabilities, and show them
  compare?: Variant; // every question is answered twice, the second time so
}

export type Variant = Pick<Settings, "model" | "temperature" | "thinking" | "system">;

export interface Preset {
  name: string;
  system: string;
}

// Small models ramble at the API's default of temperature 1.
const FIRST: Settings = { temperature: 0.7, topP: 0.95 };

/** The settings of new conversations. */
export const defaults = signal<Settings>(FIRST);
export const presets = signal<Preset[]>([]);

export async function loadPreferences(): Promise<void> {
  const kept = await get<{ defaults?: Settings; presets?: Preset[] }>("/console/api/preferences");
  if (kept.defaults) defaults.value = kept.defaults;
  if (Array.isArray(kept.presets)) presets.value = kept.presets;
}

export async function keepDefaults(settings: Settings): Promise<void> {
  const { model: _, compare: __, ...others } = settings;
  defaults.value = others;
  await put("/console/api/preferences/defaults", { value: others });
}

export async function keepPresets(all: Preset[]): Promise<void> {
  presets.value = all;
  await put("/console/api/preferences/presets", { value: all });
}

export const ALTERNATIVES = 5; // tokens that are shown beside the one that was chosen

/** The fields of a request to /v1/chat/completions. Raises SyntaxError if the schema is no JSON. */
export function requestFields(settings: Settings): Record<string, unknown> {
  const fields: Record<string, unknown> = {
    model: settings.model,
    temperature: settings.temperature,
    top_p: settings.topP,
    top_k: settings.topK,
    min_p: settings.minP,
    repeat_penalty: settings.repeatPenalty,
    max_tokens: settings.maxTokens,
    seed: settings.seed,
    stop: settings.stop ? settings.stop.split("\n").filter(Boolean) : undefined,
    enable_thinking: settings.thinking === undefined ? undefined : settings.thinking === "on",
    ...(settings.tokens ? { logprobs: true, top_logprobs: ALTERNATIVES } : {}),
  };
  if (settings.schema?.trim()) {
    const schema = JSON.parse(settings.schema);
    fields.response_format = { type: "json_schema", json_schema: { name: "answer", schema } };
  }
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}
