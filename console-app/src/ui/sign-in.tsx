// The API key, asked for once a browser: the server answers with a cookie that scripts cannot read.

import { useState } from "preact/hooks";
import { ApiError, signIn } from "../lib/api";
import { t } from "../lib/i18n";
import { Logo } from "./icons";

export function SignIn({ done }: { done: () => void }) {
  const [refusal, setRefusal] = useState("");
  const [busy, setBusy] = useState(false);
  return (
    <main class="sign-in">
      <form
        onSubmit={async (event) => {
          event.preventDefault();
          const key = new FormData(event.currentTarget).get("key") as string;
          setBusy(true);
          try {
            await signIn(key.trim());
            done();
          } catch (error) {
            setRefusal(error instanceof ApiError ? t("wrongKey") : t("serverGone"));
          }
          setBusy(false);
        }}
      >
        <h1>
          <Logo /> Rowspan
        </h1>
        <p>{t("keyNeeded")}</p>
        <label for="key">{t("apiKey")}</label>
        <input id="key" name="key" type="password" autocomplete="current-password" required autoFocus aria-describedby="key-refusal" />
        <p id="key-refusal" class="refusal" role="alert">
          {refusal}
        </p>
        <button type="submit" class="primary" disabled={busy}>
          {t("signIn")}
        </button>
      </form>
    </main>
  );
}
