// The models that the server offers, as /v1/models lists them.

import { signal } from "@preact/signals";
import { get } from "../lib/api";

export interface ServedModel {
  id: string;
  max_model_len?: number;
  state?: string; // loaded, loading, unloaded …, where the server serves several
}

export const models = signal<ServedModel[]>([]);

export async function loadModels(): Promise<void> {
  const found = await get<{ data: any[] }>("/v1/models");
  models.value = found.data.map((model) => ({
    id: model.id,
    max_model_len: model.max_model_len,
    state: typeof model.status === "object" ? model.status?.value : (model.state ?? model.status),
  }));
}

export const modelOf = (id: string | undefined): ServedModel | undefined =>
  models.value.find((model) => model.id === id) ?? models.value[0];
