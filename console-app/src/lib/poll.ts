// Asks again and again, as long as the page that shows the answer is open and visible.

import { useEffect, useRef, useState } from "preact/hooks";

export interface Polled<T> {
  value: T | null;
  error: Error | null;
  refresh: () => void;
}

/** Args: seconds: between an answer and the next question; 0: ask once. */
export function usePoll<T>(ask: () => Promise<T>, seconds: number): Polled<T> {
  const [state, setState] = useState<{ value: T | null; error: Error | null }>({ value: null, error: null });
  const again = useRef(() => {});
  useEffect(() => {
    let timer = 0;
    let ended = false;
    let asking = false;
    const tick = async () => {
      clearTimeout(timer);
      if (asking || (document.hidden && seconds)) return;
      asking = true;
      try {
        const value = await ask();
        if (!ended) setState({ value, error: null });
      } catch (error) {
        if (!ended) setState((old) => ({ value: old.value, error: error as Error }));
      }
      asking = false;
      if (seconds && !ended) timer = window.setTimeout(tick, seconds * 1000);
    };
    again.current = tick;
    const visible = () => void (document.hidden || tick());
    if (seconds) document.addEventListener("visibilitychange", visible);
    tick();
    return () => {
      ended = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", visible);
    };
  }, []);
  return { ...state, refresh: () => again.current() };
}
