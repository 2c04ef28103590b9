// A line that tells how something went, and goes away by itself.

import { signal } from "@preact/signals";

interface Toast {
  id: number;
  text: string;
  kind: "done" | "error";
}

const toasts = signal<Toast[]>([]);
let next = 0;

export function toast(text: string, kind: Toast["kind"] = "done"): void {
  const id = next++;
  toasts.value = [...toasts.value, { id, text, kind }];
  setTimeout(() => (toasts.value = toasts.value.filter((one) => one.id !== id)), kind === "error" ? 8000 : 3000);
}

export const Toasts = () => (
  <div class="toasts" role="status" aria-live="polite">
    {toasts.value.map((one) => (
      <p key={one.id} class={`toast ${one.kind}`}>
        {one.text}
      </p>
    ))}
  </div>
);
