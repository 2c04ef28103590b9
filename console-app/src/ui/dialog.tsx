// Questions that must be answered before anything else goes on.

import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { t } from "../lib/i18n";

export function Dialog({ title, close, children, wide }: { title: string; close: () => void; children: ComponentChildren; wide?: boolean }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    dialog.current!.showModal();
  }, []);
  return (
    <dialog
      ref={dialog}
      class={wide ? "wide" : ""}
      aria-label={title}
      onClose={close}
      onClick={(event) => event.target === event.currentTarget && event.currentTarget.close()}
    >
      <div class="dialog-body">
        <h2>{title}</h2>
        {children}
      </div>
    </dialog>
  );
}

interface Question {
  title: string;
  text?: string;
  input?: string; // what an input field holds at first
  yes: string;
  danger?: boolean;
  answer: (given: string | null) => void;
}

const question = signal<Question | null>(null);

/** Ask; null if the reader would rather not. Without an input field the answer is "". */
export const ask = (what: Omit<Question, "answer">): Promise<string | null> =>
  new Promise((resolve) => {
    question.value = {
      ...what,
      answer: (given) => {
        question.value = null;
        resolve(given);
      },
    };
  });

export function Questions() {
  const asked = question.value;
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => input.current?.select(), [asked]);
  if (!asked) return null;
  return (
    <Dialog title={asked.title} close={() => question.value === asked && asked.answer(null)}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          asked.answer(input.current?.value.trim() ?? "");
        }}
      >
        {asked.text && <p>{asked.text}</p>}
        {asked.input !== undefined && <input ref={input} aria-label={asked.title} defaultValue={asked.input} maxLength={200} required />}
        <div class="dialog-buttons">
          <button type="button" onClick={() => asked.answer(null)}>
            {t("cancel")}
          </button>
          <button type="submit" class={asked.danger ? "danger-button" : "primary"}>
            {asked.yes}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
