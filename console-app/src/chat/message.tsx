// One message, with what can be done with it.

import { effect, useComputed, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { copy } from "../lib/copy";
import { bytes, number, rate, seconds } from "../lib/format";
import { t } from "../lib/i18n";
import { Icon, type IconName } from "../ui/icons";
import { Meter } from "../ui/meter";
import { toast } from "../ui/toast";
import { Conversation, Message, newId } from "./conversation";
import { answer } from "./generate";
import { MarkdownView } from "./markdown-view";
import { modelOf } from "./models";
import { TokenView } from "./tokens";

interface Props {
  conversation: Conversation;
  message: Message;
  last: boolean;
  chosen?: boolean; // of two answers that are compared, the one with which the conversation goes on
}

export function MessageView(props: Props) {
  return props.message.role === "user" ? <Question {...props} /> : <Answer {...props} />;
}

function Tool({ icon, label, run, pressed }: { icon: IconName; label: string; run: () => void; pressed?: boolean }) {
  return (
    <button type="button" class="tool" title={label} aria-label={label} aria-pressed={pressed} onClick={run}>
      <Icon name={icon} size={16} />
    </button>
  );
}

function CopyTool({ text }: { text: () => string }) {
  const copied = useSignal(false);
  return (
    <Tool
      icon={copied.value ? "check" : "copy"}
      label={copied.value ? t("copied") : t("copy")}
      run={async () => {
        await copy(text());
        copied.value = true;
        setTimeout(() => (copied.value = false), 1500);
      }}
    />
  );
}

/** ‹ 2/3 ›: the messages that stand in this one's place. */
function Branches({ conversation, message }: { conversation: Conversation; message: Message }) {
  const all = conversation.siblings(message);
  if (all.length < 2 || all.length === conversation.pair(message).length) return null;
  const place = all.indexOf(message);
  const button = (to: number, icon: IconName, label: string) => (
    <button type="button" class="tool" aria-label={label} title={label} disabled={!all[to]} onClick={() => conversation.show(all[to])}>
      <Icon name={icon} size={16} />
    </button>
  );
  return (
    <span class="branches">
      {button(place - 1, "left", t("previousVersion"))}
      <span aria-label={t("version", { place: place + 1, count: all.length })}>
        {place + 1}/{all.length}
      </span>
      {button(place + 1, "right", t("nextVersion"))}
    </span>
  );
}

function Question({ conversation, message }: { conversation: Conversation; message: Message }) {
  const editing = useSignal(false);
  const busy = conversation.running.value !== null;
  const files = message.data.value.attachments ?? [];
  if (editing.value)
    return (
      <article class="message user editing" aria-label={t("you")}>
        <Editor
          text={message.content.value}
          cancel={() => (editing.value = false)}
          send={(text) => {
            editing.value = false;
            const edited = new Message(newId(), message.parent, "user", text, message.data.value);
            conversation.add(edited);
            conversation
              .storeMessage(edited)
              .then(() => answer(conversation))
              .catch((error) => toast(error.message || t("serverGone"), "error"));
          }}
        />
      </article>
    );
  return (
    <article class="message user" data-message={message.id} aria-label={t("you")}>
      {files.length > 0 && (
        <ul class="files">
          {files.map((file) => (
            <li key={file.name} title={file.name}>
              <Icon name="attach" size={14} /> <span>{file.name}</span> <small>{bytes(file.text.length, 0)}</small>
            </li>
          ))}
        </ul>
      )}
      <div class="text">{message.content.value}</div>
      <footer>
        <Branches conversation={conversation} message={message} />
        <CopyTool text={() => message.content.value} />
        {!busy && <Tool icon="edit" label={t("edit")} run={() => (editing.value = true)} />}
      </footer>
    </article>
  );
}

function Editor({ text, cancel, send }: { text: string; cancel: () => void; send: (text: string) => void }) {
  const area = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    area.current!.focus();
    area.current!.setSelectionRange(text.length, text.length);
  }, []);
  const submit = () => {
    const edited = area.current!.value.trim();
    if (edited) send(edited);
  };
  return (
    <form
      class="editor"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      <textarea
        ref={area}
        aria-label={t("edit")}
        defaultValue={text}
        rows={Math.min(12, text.split("\n").length + 1)}
        onKeyDown={(event) => {
          if (event.key === "Escape") cancel();
          if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            submit();
          }
        }}
      />
      <div class="dialog-buttons">
        <button type="button" onClick={cancel}>
          {t("cancel")}
        </button>
        <button type="submit" class="primary">
          {t("send")}
        </button>
      </div>
    </form>
  );
}

function Answer({ conversation, message, last, chosen }: Props) {
  const status = message.status.value;
  const busy = conversation.running.value !== null;
  const data = message.data.value;
  const hasTokens = useComputed(() => message.data.value.tokens !== undefined);
  const showsTokens = useSignal(false);
  const cut = data.stopped || data.error || data.stats?.finish === "length" || !data.stats?.finish;
  const again = () => {
    conversation.leaf.value = message.parent;
    answer(conversation);
  };
  return (
    <article class={`message assistant ${status}`} data-message={message.id} aria-label={t("answer")} aria-busy={status !== "done"}>
      {data.variant && (
        <header class="variant">
          <span>{data.variant}</span>
          {status === "done" && !busy && (
            <button type="button" aria-pressed={chosen} disabled={chosen} onClick={() => conversation.show(message)}>
              {t(chosen ? "goesOnWithThis" : "goOnWithThis")}
            </button>
          )}
        </header>
      )}
      <Reasoning message={message} />
      {showsTokens.value && status === "done" && data.tokens ? <TokenView tokens={data.tokens} /> : <Markdown message={message} />}
      {status === "waiting" && (
        <p class="waiting-dots" role="status" aria-label={t("waiting")}>
          <i />
          <i />
          <i />
        </p>
      )}
      {status === "done" && data.error && (
        <div class="error" role="alert">
          <span>{data.error}</span>
          {last && (
            <button type="button" onClick={again}>
              {t("tryAgain")}
            </button>
          )}
        </div>
      )}
      {status === "done" && !message.content.value && !data.error && !message.reasoning.value && <p class="hint">{t("emptyAnswer")}</p>}
      <footer>
        {status === "done" && (
          <>
            <Branches conversation={conversation} message={message} />
            <CopyTool text={() => message.content.value} />
            {!busy && <Tool icon="retry" label={t("regenerate")} run={again} />}
            {!busy && last && cut && message.content.value && (
              <Tool icon="go" label={t("continue")} run={() => void answer(conversation, message)} />
            )}
            {hasTokens.value && (
              <Tool icon="tokens" label={t("tokenView")} pressed={showsTokens.value} run={() => (showsTokens.value = !showsTokens.value)} />
            )}
          </>
        )}
        <Figures message={message} />
      </footer>
    </article>
  );
}

function Markdown({ message }: { message: Message }) {
  const root = useRef<HTMLDivElement>(null);
  // Before the browser paints: a conversation would otherwise be seen empty first.
  useLayoutEffect(() => {
    const view = new MarkdownView(root.current!);
    const end = effect(() => view.update(message.content.value, message.status.value === "done"));
    return () => {
      end();
      view.stop();
    };
  }, [message]);
  return <div class="text markdown" ref={root} />;
}

function Reasoning({ message }: { message: Message }) {
  const text = message.reasoning.value;
  if (!text) return null;
  const took = message.data.value.reasoningSeconds;
  const thinks = message.status.value !== "done" && !message.content.value;
  return (
    <details class={`reasoning ${thinks ? "thinking" : ""}`}>
      <summary>
        <Icon name="chevron" size={16} />
        {thinks ? t("thinking") : took ? t("thoughtFor", { time: seconds(took) }) : t("thought")}
      </summary>
      <div>{text}</div>
    </details>
  );
}

/** What the answer took. */
function Figures({ message }: { message: Message }) {
  const { stats, stopped, model } = message.data.value;
  if (!stats?.generated) return stopped ? <p class="figures">{t("stopped")}</p> : null;
  const context = modelOf(model)?.max_model_len;
  const used = stats.prompt + stats.generated;
  return (
    <p class="figures">
      {stats.rate !== null && (
        <span title={t("rateHelp")}>
          <b>{rate(stats.rate)}</b> {t("tokensPerSecond")}
        </span>
      )}
      <span title={t("firstHelp")}>{t("firstAfter", { time: seconds(stats.first) })}</span>
      <span>{t(stats.generated === 1 ? "oneToken" : "tokens", { count: number(stats.generated) })}</span>
      {context && (
        <span class="context" title={t("contextHelp", { prompt: number(stats.prompt), used: number(used), context: number(context) })}>
          <Meter value={used} max={context} warnAt={0.9} label={t("contextUsed")} />
          {t("contextOf", { used: number(used), context: number(context) })}
        </span>
      )}
      {stats.cached > 0 && <span title={t("cachedHelp")}>{t("cached", { count: number(stats.cached) })}</span>}
      {stats.guessed ? <span title={t("guessedHelp")}>{t("guessed", { right: number(stats.right ?? 0), guessed: number(stats.guessed) })}</span> : null}
      {stats.finish === "length" && <span class="cut">{t("cut")}</span>}
      {stopped && <span class="cut">{t("stopped")}</span>}
    </p>
  );
}
