// The page of one conversation.

import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { get } from "../lib/api";
import { number } from "../lib/format";
import { t } from "../lib/i18n";
import { usePoll } from "../lib/poll";
import { shownId } from "../lib/router";
import { Band, type Part } from "../ui/band";
import { Icon } from "../ui/icons";
import { Menu } from "../ui/menu";
import { TopBar } from "../ui/top-bar";
import { Composer } from "./composer";
import type { Conversation } from "./conversation";
import { MessageView } from "./message";
import { loadModels, modelOf, models } from "./models";
import { SettingsPanel } from "./settings-panel";
import { open, openError, shown } from "./store";

const NEAR_END = 60; // pixels from the end within which the view follows the answer

export const settingsOpen = { toggle: () => {} };

export function Chat() {
  const showsSettings = useSignal(false);
  settingsOpen.toggle = () => (showsSettings.value = !showsSettings.value);
  const id = shownId.value;
  useEffect(() => {
    if (id === "" || shown.value?.id !== id) open(id);
  }, [id]);
  const conversation = shown.value;
  return (
    <>
      <TopBar title={conversation?.title.value || t("newChat")}>
        {conversation && <ModelPicker conversation={conversation} />}
        <button
          type="button"
          class="tool"
          aria-label={t("settings")}
          title={`${t("settings")} (Ctrl+,)`}
          aria-pressed={showsSettings.value}
          onClick={settingsOpen.toggle}
        >
          <Icon name="sliders" />
        </button>
      </TopBar>
      <div class="chat">
        {conversation ? (
          <section class="conversation" aria-label={t("conversation")}>
            <Log conversation={conversation} />
            <Composer conversation={conversation} />
          </section>
        ) : (
          <section class="conversation">
            {openError.value ? (
              <div class="page-state" role="alert">
                <p>{openError.value.message || t("serverGone")}</p>
                <button type="button" onClick={() => open(id)}>
                  {t("tryAgain")}
                </button>
              </div>
            ) : (
              <p class="page-state">{t("loading")}</p>
            )}
          </section>
        )}
        {conversation && showsSettings.value && <SettingsPanel conversation={conversation} close={() => (showsSettings.value = false)} />}
      </div>
    </>
  );
}

function Log({ conversation }: { conversation: Conversation }) {
  const log = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const follows = useRef(true);
  const away = useSignal(false);
  const path = conversation.path.value;
  const toEnd = () => (log.current!.scrollTop = log.current!.scrollHeight);
  useLayoutEffect(() => {
    follows.current = true;
    toEnd();
    const observer = new ResizeObserver(() => follows.current && toEnd());
    observer.observe(content.current!);
    return () => observer.disconnect();
  }, [conversation]);
  useLayoutEffect(() => {
    if (path.at(-1)?.role === "user" || path.at(-1)?.status.value !== "done") follows.current = true;
  }, [path.length]);
  return (
    <div
      class="log"
      ref={log}
      role="log"
      aria-label={t("messages")}
      tabIndex={0}
      onScroll={() => {
        const { scrollHeight, scrollTop, clientHeight } = log.current!;
        follows.current = scrollHeight - scrollTop - clientHeight < NEAR_END;
        away.value = !follows.current;
      }}
      onWheel={(event) => {
        if (event.deltaY < 0) follows.current = false;
      }}
    >
      <div class="log-content" ref={content}>
        {path.length === 0 && <Welcome conversation={conversation} />}
        {path.map((message, index) => {
          const pair = conversation.pair(message);
          const last = index === path.length - 1;
          if (pair.length === 1) return <MessageView key={message.id} conversation={conversation} message={message} last={last} />;
          return (
            <div class="pair" key={message.data.value.pair}>
              {pair.map((one) => (
                <MessageView key={one.id} conversation={conversation} message={one} last={last} chosen={one === message} />
              ))}
            </div>
          );
        })}
      </div>
      {away.value && (
        <button
          type="button"
          class="to-end"
          aria-label={t("toEnd")}
          title={t("toEnd")}
          onClick={() => {
            follows.current = true;
            toEnd();
          }}
        >
          <Icon name="down" />
        </button>
      )}
    </div>
  );
}

/** The model of the first conversation of a visit is shown as it lies on its devices: Rowspan in one picture. */
function Welcome({ conversation }: { conversation: Conversation }) {
  const model = modelOf(conversation.settings.value.model);
  const { value: rig, error } = usePoll(() => get<{ plan: { holdings: Part[] } | null }>("/console/api/rig"), 0);
  const parts = rig?.plan?.holdings ?? [];
  return (
    <div class="welcome">
      {!rig && !error && <div class="welcome-band" />}
      {parts.length > 0 && (
        <a class="welcome-band" href="#/rig" title={t("rigStripHelp")}>
          <Band parts={parts} />
        </a>
      )}
      <h2>{t("welcome")}</h2>
      <p>{t("welcomeText")}</p>
      {model && (
        <p class="welcome-model">
          {model.id}
          {parts.length > 0 && ` · ${parts.map((part) => part.device).join(" + ")}`}
          {model.max_model_len && <> · {t("contextSize", { context: number(model.max_model_len) })}</>}
        </p>
      )}
    </div>
  );
}

function ModelPicker({ conversation }: { conversation: Conversation }) {
  const chosen = modelOf(conversation.settings.value.model);
  useEffect(() => {
    if (!models.value.length) loadModels().catch(() => {});
  }, []);
  if (!chosen) return null;
  return (
    <Menu
      class="model-picker"
      label={t("chooseModel", { model: chosen.id })}
      button={
        <>
          <span>{chosen.id}</span>
          <Icon name="chevron" size={16} />
        </>
      }
      actions={models.value.map((model) => ({
        label: model.id,
        detail: [model.state, model.max_model_len && t("contextSize", { context: number(model.max_model_len) })].filter(Boolean).join(" · "),
        current: model.id === chosen.id,
        run: () => {
          conversation.settings.value = { ...conversation.settings.value, model: model.id };
          conversation.save({ settings: conversation.settings.value }).catch(() => {});
        },
      }))}
    />
  );
}
