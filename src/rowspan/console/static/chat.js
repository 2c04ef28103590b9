// The chat page: one conversation, kept in this tab until "New chat".

import { ApiError, chat, key, modelName } from "/console/api.js";
import { render } from "/console/markdown.js";

const $ = (id) => document.getElementById(id);
const log = $("log");
const prompt = $("prompt");

const CONVERSATION = "rowspan.conversation";
const SETTINGS = "rowspan.settings";
const NEAR_END = 48; // pixels from the end within which the view follows the answer

// Small models ramble at the API's default of temperature 1.
const settings = { system: "", temperature: 0.7, maxTokens: null, ...stored(SETTINGS) };
let messages = stored(CONVERSATION) ?? []; // {role, content, note?}
let running = null; // AbortController of the answer that is being written

function stored(name) {
  try {
    return JSON.parse(sessionStorage.getItem(name));
  } catch {
    return null;
  }
}

function save() {
  try {
    sessionStorage.setItem(CONVERSATION, JSON.stringify(messages));
    sessionStorage.setItem(SETTINGS, JSON.stringify(settings));
  } catch {
    // Full: the conversation goes on, and only a reload would lose it.
  }
}

// View

function show(message) {
  const text = document.createElement("div");
  text.className = "text";
  const note = document.createElement("p");
  note.className = "note";
  const article = document.createElement("article");
  article.className = `message ${message.role}`;
  article.setAttribute("aria-label", message.role === "user" ? "You" : "Answer");
  article.append(text);
  if (message.role === "assistant") article.append(note);
  log.append(article);
  const update = () => {
    if (message.role === "user") text.textContent = message.content;
    else text.replaceChildren(...render(message.content));
    note.textContent = message.note ?? "";
  };
  update();
  return { article, text, update };
}

function showAll() {
  for (const node of log.querySelectorAll(".message, .error")) node.remove();
  messages.forEach(show);
  $("welcome").hidden = messages.length > 0;
  log.scrollTop = log.scrollHeight;
}

const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END;

/** Change the conversation's view without taking a reader who has scrolled up away from where they are. */
function following(change) {
  const follow = atEnd();
  change();
  if (follow) log.scrollTop = log.scrollHeight;
  $("to-end").hidden = atEnd();
}

function showError(message, retry) {
  const box = document.createElement("div");
  box.className = "error";
  box.setAttribute("role", "alert");
  box.append(message);
  if (retry) {
    const again = document.createElement("button");
    again.type = "button";
    again.textContent = "Try again";
    again.addEventListener("click", () => {
      box.remove();
      retry();
    });
    box.append(document.createElement("br"), again);
  }
  following(() => log.append(box));
}

function setBusy(controller) {
  running = controller;
  log.setAttribute("aria-busy", String(controller !== null));
  $("send").hidden = controller !== null;
  $("stop").hidden = controller === null;
}

// Talking

async function send() {
  const content = prompt.value.trim();
  if (!content || running) return;
  prompt.value = "";
  grow();
  for (const box of log.querySelectorAll(".error")) box.remove();
  // After an error the last question is still unanswered; the new one takes its place.
  if (messages.at(-1)?.role === "user") {
    messages.pop();
    showAll();
  }
  messages.push({ role: "user", content });
  $("welcome").hidden = true;
  show(messages.at(-1));
  log.scrollTop = log.scrollHeight;
  save();
  await answer();
}

async function answer() {
  const conversation = messages;
  const controller = new AbortController();
  setBusy(controller);
  const message = { role: "assistant", content: "", note: "" };
  const view = show(message);
  view.text.classList.add("waiting");
  following(() => {});
  const meter = new Meter();
  let drawing = 0;
  const draw = () => {
    drawing = 0;
    following(view.update);
  };
  let failure = null;
  try {
    for await (const chunk of chat(request(), controller.signal)) {
      const text = chunk.choices[0]?.delta.content;
      if (text) {
        view.text.classList.remove("waiting");
        message.content += text;
      }
      meter.take(chunk);
      message.note = meter.note();
      drawing ||= requestAnimationFrame(draw);
    }
  } catch (error) {
    if (error.name === "AbortError") message.note = [message.note, "stopped"].filter(Boolean).join(" · ");
    else failure = error;
  }
  cancelAnimationFrame(drawing);
  view.text.classList.remove("waiting");
  setBusy(null);
  if (conversation !== messages) return; // a new chat has begun meanwhile
  if (message.content || !failure) {
    messages.push(message);
    draw();
  } else {
    view.article.remove();
  }
  save();
  if (failure) await failed(failure);
  prompt.focus({ preventScroll: true });
}

function request() {
  const history = messages.map(({ role, content }) => ({ role, content }));
  const system = settings.system.trim();
  return {
    messages: system ? [{ role: "system", content: system }, ...history] : history,
    temperature: settings.temperature,
    top_p: 0.95,
    ...(settings.maxTokens ? { max_tokens: settings.maxTokens } : {}),
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
  };
}

/** How many tokens, and how fast. */
class Meter {
  constructor() {
    this.began = performance.now();
    this.tokens = 0;
  }
  take(chunk) {
    if (!chunk.usage || !chunk.choices.length) return;
    this.last = performance.now();
    this.tokens = chunk.usage.completion_tokens;
    if (this.first === undefined) [this.first, this.before] = [this.last, this.tokens];
    if (chunk.choices[0].finish_reason === "length") this.ending = "cut at the limit";
  }
  note() {
    if (!this.tokens) return "";
    const speed = ((this.tokens - this.before) / (this.last - this.first)) * 1000;
    const parts = [`${this.tokens} token${this.tokens === 1 ? "" : "s"}`];
    if (this.tokens - this.before > 1) parts.push(`${speed.toFixed(1)} tokens/s`);
    parts.push(`first after ${((this.first - this.began) / 1000).toFixed(1)} s`);
    if (this.ending) parts.push(this.ending);
    return parts.join(" · ");
  }
}

async function failed(error) {
  const unanswered = messages.at(-1)?.role === "user";
  if (error instanceof ApiError && error.status === 401 && (await askKey())) {
    if (unanswered) return answer();
    return;
  }
  if (!(error instanceof ApiError)) console.error(error);
  const refused = error.status >= 400 && error.status < 500 && error.status !== 429;
  if (refused && unanswered && !prompt.value) {
    prompt.value = messages.at(-1).content; // to be changed: sent again as it is, it would fail again
    grow();
  }
  showError(
    error instanceof ApiError ? error.message : `This page failed: ${error.message}`,
    unanswered && !refused ? answer : null,
  );
}

/** Asks for the API key; false if the reader would rather not. */
function askKey() {
  const dialog = $("key-dialog");
  $("key-reason").textContent = key.get() ? "The server does not accept this key." : "This server asks for a key.";
  $("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "given"), { once: true }),
  );
}

// Controls

function grow() {
  if (CSS.supports("field-sizing", "content")) return;
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
prompt.addEventListener("keydown", (event) => {
  // Not while an input method composes a word: its Enter ends the word.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
prompt.addEventListener("input", grow);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("key-dialog").open) running?.abort();
});
$("stop").addEventListener("click", () => running?.abort());
$("to-end").addEventListener("click", () => log.scrollTo({ top: log.scrollHeight, behavior: "smooth" }));
log.addEventListener("scroll", () => ($("to-end").hidden = atEnd()), { passive: true });

$("new-chat").addEventListener("click", () => {
  running?.abort();
  messages = [];
  save();
  showAll();
  prompt.focus();
});

$("settings-button").addEventListener("click", (event) => {
  const panel = $("settings");
  panel.hidden = !panel.hidden;
  event.target.setAttribute("aria-expanded", String(!panel.hidden));
});
$("system").value = settings.system;
$("temperature").value = settings.temperature;
$("max-tokens").value = settings.maxTokens ?? "";
$("settings").addEventListener("input", () => {
  const temperature = $("temperature").valueAsNumber;
  const maxTokens = $("max-tokens").valueAsNumber;
  settings.system = $("system").value;
  settings.temperature = temperature >= 0 && temperature <= 2 ? temperature : 0.7;
  settings.maxTokens = maxTokens >= 1 ? Math.floor(maxTokens) : null;
  save();
});

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set($("key").value.trim());
  $("key-dialog").close("given");
});
$("key-cancel").addEventListener("click", () => $("key-dialog").close(""));

async function greet() {
  try {
    const name = await modelName();
    $("model").textContent = name;
    document.title = `${name} · Rowspan`;
  } catch (error) {
    if (error.status === 401 && (await askKey())) return greet();
    showError(error.message, greet);
  }
}

showAll();
grow();
greet();
