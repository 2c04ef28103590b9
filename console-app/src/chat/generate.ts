// Has the model answer, and follows the answer as it comes.

import { batch } from "@preact/signals";
import { ApiError, events, OfflineError } from "../lib/api";
import { t } from "../lib/i18n";
import { toast } from "../ui/toast";
import { Conversation, Message, newId, type MessageData, type TokenChance } from "./conversation";
import { models } from "./models";
import { requestFields, type Settings } from "./settings";
import { list } from "./store";

const KEEP_EVERY = 5000; // milliseconds between savings of an answer that is being written
const MOST_TOKENS_KEPT = 4000; // with their chances; they take 200 bytes each

/** Answer the conversation's last message; or, given an unfinished answer, go on with it. */
export async function answer(conversation: Conversation, unfinished?: Message): Promise<void> {
  if (conversation.running.value) return;
  const settings = conversation.settings.value;
  const { compare, ...first } = settings;
  const other = Object.entries(compare ?? {}).filter(([, value]) => value !== undefined);
  const variants = compare && !unfinished ? [first, { ...first, ...Object.fromEntries(other) }] : [first];
  const pair = variants.length > 1 ? newId() : undefined;
  const parent = conversation.leaf.value;
  const jobs = variants.map((variant, place) => {
    const model = variant.model ?? models.value[0]?.id;
    const message = unfinished ?? new Message(newId(), parent, "assistant", "", pair ? { pair, place, variant: told(variant, model) } : {});
    return { message, variant, model };
  });
  let bodies: Record<string, unknown>[];
  try {
    bodies = jobs.map(({ message, variant }) => request(conversation, message, variant, unfinished !== undefined));
  } catch (error) {
    toast(t("badSchema", { why: (error as Error).message }), "error");
    return;
  }
  const abort = new AbortController();
  batch(() => {
    conversation.running.value = abort;
    for (const { message, model } of jobs) {
      message.status.value = "waiting";
      message.data.value = { ...message.data.value, model, error: undefined, stopped: undefined };
      if (!unfinished) conversation.add(message);
    }
    conversation.leaf.value = jobs[0].message.id;
  });
  await Promise.all(jobs.map(({ message }, index) => follow(conversation, message, bodies[index], abort.signal)));
  conversation.running.value = null;
  if (pair) await conversation.save({ leaf: jobs[0].message.id }).catch(() => {});
  list().catch(() => {});
}

const told = (variant: Settings, model?: string) =>
  [model, variant.temperature !== undefined && `${t("temperature")} ${variant.temperature}`, variant.thinking && `${t("reasoning")}: ${t(variant.thinking)}`]
    .filter(Boolean)
    .join(" · ");

/** Have one answer written, and keep it. */
async function follow(conversation: Conversation, message: Message, body: unknown, abort: AbortSignal): Promise<void> {
  const answering = new Answering(message);
  const keeping = setInterval(() => void conversation.storeMessage(message).catch(() => {}), KEEP_EVERY);
  // A tab that closes takes its answer with it, but for what is sent now.
  const leaving = () => void conversation.putMessage(message, { keepalive: true }).catch(() => {});
  addEventListener("pagehide", leaving);
  let change: MessageData = {};
  try {
    for await (const chunk of events("/v1/chat/completions", body, abort)) answering.take(chunk);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") change = { stopped: true };
    else if (error instanceof OfflineError) change = { error: t("serverGone") };
    else if (error instanceof ApiError) change = { error: error.message };
    else {
      change = { error: String(error) };
      console.error(error);
    }
  } finally {
    clearInterval(keeping);
    removeEventListener("pagehide", leaving);
    batch(() => {
      answering.end();
      message.data.value = { ...message.data.value, ...answering.told(), ...change };
      message.status.value = "done";
    });
  }
  try {
    await conversation.storeMessage(message);
  } catch (error) {
    if (!change.error) toast(t("notSaved", { why: (error as Error).message || t("serverGone") }), "error");
  }
}

function request(conversation: Conversation, message: Message, settings: Settings, goesOn: boolean): Record<string, unknown> {
  const said = conversation
    .pathTo(message.parent)
    .filter((one) => one.role === "user" || one.content.value)
    .map((one) => ({ role: one.role, content: one.asked }));
  const system = settings.system?.trim();
  return {
    messages: [
      ...(system ? [{ role: "system", content: system }] : []),
      ...said,
      ...(goesOn ? [{ role: "assistant", content: message.content.value }] : []),
    ],
    ...(goesOn ? { continue_final_message: true, add_generation_prompt: false } : {}),
    ...requestFields(settings),
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
  };
}

interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_tokens_details?: { cached_tokens: number };
  completion_tokens_details?: { accepted_prediction_tokens?: number; rejected_prediction_tokens?: number };
}

/** Takes in chunks, and shows what has come once a frame. */
class Answering {
  private text = "";
  private thought = "";
  private tokens: TokenChance[];
  private readonly began = performance.now();
  private first = 0;
  private firstTokens = 0;
  private last = 0;
  private thinkingEnded = 0;
  private usage: Usage = { prompt_tokens: 0, completion_tokens: 0 };
  private finish: string | null = null;
  private due = 0;
  private ended = false; // a frame that was asked for may come later
  private readonly before: string;

  constructor(private readonly message: Message) {
    this.before = message.content.value;
    this.tokens = this.before ? [...(message.data.value.tokens ?? [])] : [];
  }

  take(chunk: any): void {
    if (chunk.usage) this.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    this.last = performance.now();
    if (!this.first) {
      this.first = this.last;
      this.firstTokens = this.usage.completion_tokens;
    }
    const delta = choice.delta ?? {};
    if (delta.reasoning_content) this.thought += delta.reasoning_content;
    if (delta.content) {
      if (this.thought && !this.thinkingEnded) this.thinkingEnded = this.last;
      this.text += delta.content;
    }
    for (const call of delta.tool_calls ?? []) this.text += call.function?.name ? `\n\`${call.function.name}\` ` : (call.function?.arguments ?? "");
    for (const token of choice.logprobs?.content ?? []) {
      if (this.tokens.length < MOST_TOKENS_KEPT)
        this.tokens.push({
          text: token.token,
          logprob: token.logprob,
          top: token.top_logprobs.map((one: { token: string; logprob: number }) => [one.token, one.logprob]),
        });
    }
    if (choice.finish_reason) this.finish = choice.finish_reason;
    if (!this.due) this.due = document.hidden ? window.setTimeout(this.flush, 250) : requestAnimationFrame(this.flush);
  }

  /** Show the rest. */
  end(): void {
    this.flush();
    this.ended = true;
  }

  private readonly flush = (): void => {
    this.due = 0;
    if (!this.first || this.ended) return;
    batch(() => {
      this.message.status.value = "writing";
      if (this.text) this.message.content.value = this.before + this.text;
      if (this.thought) this.message.reasoning.value = this.thought;
      this.message.data.value = { ...this.message.data.value, ...this.told() };
    });
  };

  private guesses(): { guessed?: number; right?: number } {
    const told = this.usage.completion_tokens_details;
    if (!told) return {};
    const right = told.accepted_prediction_tokens ?? 0;
    return { guessed: right + (told.rejected_prediction_tokens ?? 0), right };
  }

  /** What there is to say under the answer. */
  told(): MessageData {
    if (!this.first) return {};
    const since = this.usage.completion_tokens - this.firstTokens;
    const thinking = (this.thinkingEnded || this.last) - this.first;
    return {
      stats: {
        prompt: this.usage.prompt_tokens,
        cached: this.usage.prompt_tokens_details?.cached_tokens ?? 0,
        generated: this.usage.completion_tokens,
        first: (this.first - this.began) / 1000,
        rate: since > 0 && this.last > this.first ? since / ((this.last - this.first) / 1000) : null,
        finish: this.finish,
        ...this.guesses(),
      },
      ...(this.thought ? { reasoningSeconds: thinking / 1000 } : {}),
      ...(this.tokens.length ? { tokens: this.tokens } : {}),
    };
  }
}
