// Where messages are written, and files are attached.

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { ApiError, postRaw } from "../lib/api";
import { bytes } from "../lib/format";
import { t } from "../lib/i18n";
import { Icon } from "../ui/icons";
import { toast } from "../ui/toast";
import { Conversation, Message, newId, type Attachment } from "./conversation";
import { answer } from "./generate";
import { begin } from "./store";

const LARGEST_FILE = 2 << 20; // of text; a context seldom has room for as much
const LARGEST_PDF = 30 << 20;
const TITLE = 60; // characters of the first message

// What was typed and not sent, by conversation.
const drafts = new Map<string, { text: string; files: Attachment[] }>();

export function Composer({ conversation }: { conversation: Conversation }) {
  const area = useRef<HTMLTextAreaElement>(null);
  const files = useSignal<Attachment[]>(drafts.get(conversation.id)?.files ?? []);
  const filled = useSignal((drafts.get(conversation.id)?.text ?? "") !== "");
  const running = conversation.running.value;

  const keep = () => {
    drafts.set(conversation.id, { text: area.current!.value, files: files.value });
    filled.value = area.current!.value.trim() !== "" || files.value.length > 0;
  };
  const grow = () => {
    const element = area.current!;
    element.style.height = "auto";
    element.style.height = `${element.scrollHeight}px`;
  };
  useEffect(() => {
    const draft = drafts.get(conversation.id);
    area.current!.value = draft?.text ?? "";
    files.value = draft?.files ?? [];
    keep();
    grow();
    if (matchMedia("(pointer: fine)").matches) area.current!.focus({ preventScroll: true });
  }, [conversation]);

  const send = async () => {
    const content = area.current!.value.trim();
    if ((!content && !files.value.length) || conversation.running.value) return;
    const message = new Message(newId(), conversation.leaf.value, "user", content, files.value.length ? { attachments: files.value } : {});
    try {
      if (!conversation.stored) {
        conversation.title.value = (content || files.value[0].name).replace(/\s+/g, " ").slice(0, TITLE);
        await begin(conversation);
      }
      conversation.add(message);
      await conversation.storeMessage(message);
    } catch (error) {
      toast((error as Error).message || t("serverGone"), "error");
      const isKnown = conversation.messages.value.has(message.id);
      if (!(error instanceof ApiError && error.status >= 500)) {
        if (isKnown) conversation.remove(message);
        return;
      }
      if (!isKnown) conversation.add(message); // it can be answered, though it cannot be kept
    }
    area.current!.value = "";
    files.value = [];
    keep();
    grow();
    await answer(conversation);
  };

  const attach = async (chosen: Iterable<File>) => {
    for (const file of chosen) {
      try {
        files.value = [...files.value, { name: file.name, text: await textOf(file) }];
      } catch (error) {
        toast(`${file.name}: ${(error as Error).message || t("serverGone")}`, "error");
      }
    }
    keep();
  };

  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
      onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => {
        event.preventDefault();
        attach(event.dataTransfer!.files);
      }}
    >
      {files.value.length > 0 && (
        <ul class="files">
          {files.value.map((file, index) => (
            <li key={index} title={file.name}>
              <Icon name="attach" size={14} /> <span>{file.name}</span> <small>{bytes(file.text.length, 0)}</small>
              <button
                type="button"
                class="tool"
                aria-label={t("removeFile", { name: file.name })}
                onClick={() => {
                  files.value = files.value.filter((_, place) => place !== index);
                  keep();
                }}
              >
                <Icon name="close" size={14} />
              </button>
            </li>
          ))}
        </ul>
      )}
      <label class="unseen" for="prompt">
        {t("yourMessage")}
      </label>
      <textarea
        id="prompt"
        ref={area}
        rows={1}
        placeholder={t("writeMessage")}
        enterkeyhint="send"
        onInput={() => {
          grow();
          keep();
        }}
        onPaste={(event) => {
          if (event.clipboardData?.files.length) {
            event.preventDefault();
            attach(event.clipboardData.files);
          }
        }}
        onKeyDown={(event) => {
          // Not while an input method composes a word: its Enter ends the word.
          if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            send();
          } else if (event.key === "ArrowUp" && !area.current!.value) {
            const edits = document.querySelectorAll<HTMLElement>(`.message.user .tool[aria-label="${t("edit")}"]`);
            if (edits.length) {
              event.preventDefault();
              [...edits].at(-1)!.click();
            }
          }
        }}
      />
      <div class="composer-buttons">
        <label class="tool" title={t("attach")}>
          <input
            type="file"
            multiple
            class="unseen"
            aria-label={t("attach")}
            onChange={(event) => {
              attach([...event.currentTarget.files!]);
              event.currentTarget.value = "";
            }}
          />
          <Icon name="attach" />
        </label>
        {running ? (
          <button type="button" class="send" aria-label={t("stop")} title={`${t("stop")} (Esc)`} onClick={() => running.abort()}>
            <Icon name="stop" size={20} />
          </button>
        ) : (
          <button type="submit" class="send primary" aria-label={t("send")} title={t("send")} disabled={!filled.value}>
            <Icon name="send" size={20} />
          </button>
        )}
      </div>
    </form>
  );
}

async function textOf(file: File): Promise<string> {
  if (file.type === "application/pdf" || /\.pdf$/i.test(file.name)) {
    if (file.size > LARGEST_PDF) throw new Error(t("fileTooLarge", { size: bytes(LARGEST_PDF, 0) }));
    return (await postRaw<{ text: string }>("/console/api/extract", file)).text;
  }
  if (file.size > LARGEST_FILE) throw new Error(t("fileTooLarge", { size: bytes(LARGEST_FILE, 0) }));
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error(t("noText"));
  }
}
