// All conversations: the list at the side, and those that are open.

import { signal } from "@preact/signals";
import { del, get, post, put } from "../lib/api";
import { go, shownId } from "../lib/router";
import { Conversation, newId } from "./conversation";
import { defaults } from "./settings";

export interface Listed {
  id: string;
  title: string;
  pinned: number;
  updated: number;
  found?: string | null;
}

export const listed = signal<Listed[] | null>(null);
export const search = signal("");
/** The conversation that is shown; null while it is fetched. */
export const shown = signal<Conversation | null>(null);
export const openError = signal<Error | null>(null);

// They stay open: an answer goes on while another conversation is read.
const opened = new Map<string, Conversation>();

export async function list(): Promise<void> {
  const asked = search.value;
  const found = await get<{ conversations: Listed[] }>(
    `/console/api/conversations${asked ? `?search=${encodeURIComponent(asked)}` : ""}`,
  );
  if (asked === search.value) listed.value = found.conversations;
}

/** Open the conversation that the address names; "": a new one. */
export async function open(id: string): Promise<void> {
  openError.value = null;
  const known = opened.get(id);
  if (known || !id) {
    shown.value = known ?? new Conversation(newId());
    return;
  }
  shown.value = null;
  try {
    const conversation = Conversation.of(await get(`/console/api/conversations/${id}`));
    opened.set(id, conversation);
    if (shownId.value === id) shown.value = conversation;
  } catch (error) {
    openError.value = error as Error;
  }
}

/** Show what another tab has added meanwhile. */
export async function catchUp(): Promise<void> {
  await list();
  const conversation = shown.value;
  if (!conversation?.stored || conversation.running.value) return;
  const stored = await get<Parameters<typeof Conversation.of>[0]>(`/console/api/conversations/${conversation.id}`);
  if (shown.value !== conversation || conversation.running.value || conversation.isLike(stored)) return;
  const fresh = Conversation.of(stored);
  opened.set(fresh.id, fresh);
  shown.value = fresh;
}

/** A new conversation may have been opened before the defaults were known. */
export function freshDefaults(): void {
  if (shown.value && !shown.value.stored) shown.value.settings.value = { ...defaults.value };
}

/** Give a new conversation its place in the list and its own address. */
export async function begin(conversation: Conversation): Promise<void> {
  opened.set(conversation.id, conversation);
  await conversation.store();
  go(`chat/${conversation.id}`, true);
  list().catch(() => {});
}

export async function rename(id: string, title: string): Promise<void> {
  await put(`/console/api/conversations/${id}`, { title });
  const conversation = opened.get(id);
  if (conversation) conversation.title.value = title;
  await list();
}

export async function pin(id: string, pinned: boolean): Promise<void> {
  await put(`/console/api/conversations/${id}`, { pinned });
  await list();
}

export async function remove(id: string): Promise<void> {
  opened.get(id)?.running.value?.abort();
  await del(`/console/api/conversations/${id}`);
  opened.delete(id);
  if (shownId.value === id) go("chat");
  await list();
}

export async function importFile(file: File): Promise<number> {
  const { imported } = await post<{ imported: number }>("/console/api/import", JSON.parse(await file.text()));
  opened.clear();
  await list();
  return imported;
}
