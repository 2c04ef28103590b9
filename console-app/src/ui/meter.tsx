// A share of something, as a bar. (The element <meter> looks different in every browser.)

interface Props {
  value: number;
  max: number;
  label?: string; // without one, the figure stands beside it, and screen readers pass over the bar
  title?: string;
  warnAt?: number; // the share from which it is red
}

export function Meter({ value, max, label, title, warnAt = Infinity }: Props) {
  const share = max > 0 ? Math.min(1, value / max) : 0;
  const told = label ? { role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": max, "aria-valuenow": value } : {};
  return (
    <span class={`meter ${share >= warnAt ? "warn" : ""}`} title={title} {...(told as object)} aria-hidden={label ? undefined : true}>
      <i style={{ width: `${100 * share}%` }} />
    </span>
  );
}
