// Requests to the server that this page came from.

import { signal } from "@preact/signals";

/** The server's refusal, in its own words. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string | null = null,
  ) {
    super(message);
  }
}

/** The server cannot be reached. */
export class OfflineError extends Error {}

/** Whether the sign-in must be shown before anything else. */
export const signInNeeded = signal(false);

async function request(method: string, path: string, body?: unknown, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      ...init,
      ...(body === undefined
        ? {}
        : { body: JSON.stringify(body), headers: { "content-type": "application/json", ...init.headers } }),
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new OfflineError();
  }
  if (response.ok) return response;
  const refusal = await response.json().catch(() => null);
  if (response.status === 401 && path !== SESSION) signInNeeded.value = true;
  throw new ApiError(
    refusal?.error?.message ?? `${response.status} ${response.statusText}`,
    response.status,
    refusal?.error?.code ?? null,
  );
}

const SESSION = "/console/api/session";

export const get = async <T>(path: string, init?: RequestInit): Promise<T> =>
  (await request("GET", path, undefined, init)).json();
export const getText = async (path: string): Promise<string> => (await request("GET", path)).text();
export const put = (path: string, body: unknown, init?: RequestInit) => request("PUT", path, body, init);
export const post = async <T>(path: string, body?: unknown): Promise<T> =>
  (await request("POST", path, body ?? {})).json();
export const del = (path: string) => request("DELETE", path);
export const postRaw = async <T>(path: string, body: BodyInit): Promise<T> =>
  (await request("POST", path, undefined, { body })).json();

export async function signIn(key: string): Promise<void> {
  await request("POST", SESSION, { key });
  signInNeeded.value = false;
}

export async function signOut(): Promise<void> {
  await request("DELETE", SESSION);
  location.reload();
}

/** The data of a stream of server-sent events, parsed. Raises ApiError where an event is an error. */
export async function* events(path: string, body: unknown, abort: AbortSignal): AsyncGenerator<any> {
  const response = await request("POST", path, body, { signal: abort });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part: ReadableStreamReadResult<string>;
    try {
      part = await reader.read();
    } catch (error) {
      if (abort.aborted) throw error;
      throw new OfflineError();
    }
    if (part.done) throw new OfflineError(); // it ends with [DONE], unless the server went away
    rest += part.value;
    const whole = rest.split("\n\n");
    rest = whole.pop()!;
    for (const event of whole) {
      const data = event.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      if (!event.startsWith("data:")) continue;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new ApiError(parsed.error.message, parsed.error.status ?? 500, parsed.error.code);
      yield parsed;
    }
  }
}
