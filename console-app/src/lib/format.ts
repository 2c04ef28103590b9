// Numbers, sizes and times as people read them.

import { language, t } from "./i18n";

export function bytes(size: number | null | undefined, digits = 1): string {
  if (size === null || size === undefined) return "–";
  let value = size;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return `${unit === "B" ? value : value.toFixed(value < 100 ? digits : 0)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(digits)} TiB`;
}

export function number(value: number | null | undefined, digits = 0): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value.toLocaleString(language.value, { maximumFractionDigits: digits, minimumFractionDigits: digits });
}

/** Three significant digits, as a rate needs them. */
export function rate(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return number(value, value < 10 ? 2 : value < 100 ? 1 : 0);
}

export function seconds(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value < 0.001) return `${number(value * 1e6)} µs`;
  if (value < 1) return `${number(value * 1000, value < 0.01 ? 1 : 0)} ms`;
  if (value < 120) return `${number(value, value < 10 ? 2 : 1)} s`;
  return `${number(value / 60, 1)} min`;
}

export function percent(share: number, digits = 0): string {
  return `${number(share * 100, digits)} %`;
}

export function date(time: number | string): string {
  const moment = typeof time === "number" ? new Date(time * 1000) : new Date(time);
  return Number.isNaN(+moment)
    ? String(time)
    : moment.toLocaleString(language.value, { dateStyle: "medium", timeStyle: "short" });
}

export const clock = (time: number): string => new Date(time * 1000).toLocaleTimeString([], { hour12: false });

/** The heading of a list under which a time belongs. */
export function when(time: number): string {
  const today = new Date();
  today.setHours(0, 0, 0, 0);
  const days = (today.getTime() / 1000 - time) / 86400;
  if (days <= 0) return t("today");
  if (days <= 1) return t("yesterday");
  if (days <= 7) return t("thisWeek");
  return new Date(time * 1000).toLocaleDateString(language.value, { month: "long", year: "numeric" });
}
