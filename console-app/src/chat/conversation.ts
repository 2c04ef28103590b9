// One conversation: a tree of messages, of which the branch that ends in `leaf` is shown.

import { batch, computed, signal, type Signal } from "@preact/signals";
import { put } from "../lib/api";
import { defaults, type Settings } from "./settings";

export type Status = "done" | "waiting" | "writing";

export interface Attachment {
  name: string;
  text: string;
}

/** A token with its log-probability and the likeliest alternatives. */
export interface TokenChance {
  text: string;
  logprob: number;
  top: [string, number][];
}

export interface Stats {
  prompt: number; // tokens
  cached: number; // of these, found in the KV cache
  generated: number;
  first: number; // seconds until the first token
  rate: number | null; // tokens per second after the first
  finish: string | null;
  guessed?: number; // tokens that were guessed before they were computed
  right?: number; // of these
}

export interface MessageData {
  model?: string;
  reasoning?: string;
  reasoningSeconds?: number;
  attachments?: Attachment[];
  stats?: Stats;
  tokens?: TokenChance[];
  error?: string;
  stopped?: boolean;
  pair?: string; // the same in two answers that are compared
  place?: number; // 0: the left one
  variant?: string; // how the settings of this one are told
}

export interface StoredMessage {
  id: string;
  parent: string | null;
  role: "user" | "assistant" | "system";
  content: string;
  data: MessageData;
  created: number;
}

export class Message {
  readonly content: Signal<string>;
  readonly reasoning: Signal<string>;
  readonly data: Signal<MessageData>;
  readonly status = signal<Status>("done");

  constructor(
    readonly id: string,
    readonly parent: string | null,
    readonly role: StoredMessage["role"],
    content: string,
    data: MessageData = {},
  ) {
    this.content = signal(content);
    this.reasoning = signal(data.reasoning ?? "");
    this.data = signal(data);
  }

  /** What the model reads: the text, followed by the attached files. */
  get asked(): string {
    const files = (this.data.value.attachments ?? []).map(({ name, text }) => `File: ${name}\n\n\`\`\`\n${text}\n\`\`\``);
    return [this.content.value, ...files].join("\n\n");
  }
}

export class Conversation {
  readonly title: Signal<string>;
  readonly settings: Signal<Settings>;
  readonly leaf: Signal<string | null>;
  readonly messages = signal<ReadonlyMap<string, Message>>(new Map());
  /** Set while an answer is written. */
  readonly running = signal<AbortController | null>(null);
  stored = false;
  private readonly unsaved = new Set<Message>();

  readonly path = computed<Message[]>(() => this.pathTo(this.leaf.value));

  /** The messages from the first one to that of an id. */
  pathTo(id: string | null): Message[] {
    const found: Message[] = [];
    let place = id;
    while (place !== null) {
      const message: Message | undefined = this.messages.value.get(place);
      if (!message || found.includes(message)) break;
      found.push(message);
      place = message.parent;
    }
    return found.reverse();
  }

  constructor(
    readonly id: string,
    title = "",
    settings: Settings = { ...defaults.value },
    leaf: string | null = null,
  ) {
    this.title = signal(title);
    this.settings = signal(settings);
    this.leaf = signal(leaf);
  }

  static of(stored: { id: string; title: string; settings: Settings; leaf: string | null; messages: StoredMessage[] }): Conversation {
    const found = new Conversation(stored.id, stored.title, { ...stored.settings }, stored.leaf);
    found.messages.value = new Map(
      stored.messages.map((one) => [one.id, new Message(one.id, one.parent, one.role, one.content, one.data)]),
    );
    found.stored = true;
    return found;
  }

  /** The messages that answer the same one, or begin the conversation in its place. */
  siblings(message: Message): Message[] {
    return [...this.messages.value.values()].filter((one) => one.parent === message.parent && one.role === message.role);
  }

  add(message: Message): void {
    batch(() => {
      this.messages.value = new Map(this.messages.value).set(message.id, message);
      this.leaf.value = message.id;
    });
  }

  /** The answers that stand side by side with this one, itself included. */
  pair(message: Message): Message[] {
    const { pair } = message.data.value;
    if (!pair) return [message];
    const both = this.siblings(message).filter((one) => one.data.value.pair === pair);
    return both.sort((one, other) => (one.data.value.place ?? 0) - (other.data.value.place ?? 0));
  }

  /** Show the branch through a message, down to its newest end. */
  show(message: Message): void {
    let last = message;
    for (;;) {
      const children = [...this.messages.value.values()].filter((one) => one.parent === last.id);
      if (!children.length) break;
      last = children.at(-1)!;
    }
    this.leaf.value = last.id;
    this.save({ leaf: last.id });
  }

  /** Show the conversation as it was before a message. */
  remove(message: Message): void {
    this.unsaved.delete(message);
    const rest = new Map(this.messages.value);
    rest.delete(message.id);
    batch(() => {
      this.messages.value = rest;
      this.leaf.value = message.parent;
    });
  }

  /** Whether a stored conversation says the same as this one. */
  isLike(stored: { title: string; messages: StoredMessage[] }): boolean {
    return (
      this.title.value === stored.title &&
      this.messages.value.size === stored.messages.length &&
      stored.messages.every((one) => this.messages.value.get(one.id)?.content.value === one.content)
    );
  }

  async save(change: { title?: string; pinned?: boolean; settings?: Settings; leaf?: string }): Promise<void> {
    if (this.stored) await put(`/console/api/conversations/${this.id}`, change);
  }

  async store(): Promise<void> {
    await put(`/console/api/conversations/${this.id}`, { title: this.title.value, settings: this.settings.value });
    this.stored = true;
  }

  /** Keep a message on the server, and before it those that could not be kept when they were written. */
  async storeMessage(message: Message): Promise<void> {
    this.unsaved.delete(message);
    this.unsaved.add(message);
    for (const one of [...this.unsaved]) {
      await this.putMessage(one);
      this.unsaved.delete(one);
    }
  }

  async putMessage(message: Message, init?: RequestInit): Promise<void> {
    const reasoning = message.reasoning.value;
    const body = {
      parent: message.parent,
      role: message.role,
      content: message.content.value,
      data: { ...message.data.value, ...(reasoning ? { reasoning } : {}) },
    };
    await put(`/console/api/conversations/${this.id}/messages/${message.id}`, body, init);
  }
}

/** Random, also where pages are not from a secure origin and crypto.randomUUID is missing. */
export function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
