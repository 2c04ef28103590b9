// A button that opens a list of things to do.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Icon, type IconName } from "./icons";

export interface Action {
  label: string;
  icon?: IconName;
  detail?: string;
  danger?: boolean;
  current?: boolean;
  run: () => void;
}

interface Props {
  label: string; // for screen readers, and as a tooltip
  button: ComponentChildren;
  class?: string;
  align?: "start" | "end";
  up?: boolean;
  actions: Action[];
}

export function Menu({ label, button, actions, align = "end", up = false, ...others }: Props) {
  const [isOpen, setOpen] = useState(false);
  const root = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!isOpen) return;
    const items = () => [...root.current!.querySelectorAll<HTMLElement>("[role=menuitem]")];
    items()[0]?.focus();
    const outside = (event: Event) => {
      if (!root.current!.contains(event.target as Node)) setOpen(false);
    };
    const key = (event: KeyboardEvent) => {
      const place = items().indexOf(document.activeElement as HTMLElement);
      if (event.key === "Escape" || event.key === "Tab") {
        setOpen(false);
        root.current!.querySelector<HTMLElement>("button")!.focus();
        if (event.key === "Escape") event.stopPropagation();
      } else if (event.key === "ArrowDown") items()[(place + 1) % items().length].focus();
      else if (event.key === "ArrowUp") items().at(place - 1)!.focus();
      else return;
      event.preventDefault();
    };
    document.addEventListener("pointerdown", outside);
    root.current!.addEventListener("keydown", key);
    const element = root.current!;
    return () => {
      document.removeEventListener("pointerdown", outside);
      element.removeEventListener("keydown", key);
    };
  }, [isOpen]);
  return (
    <div class={`menu-root ${others.class ?? ""}`} ref={root}>
      <button
        type="button"
        class="menu-button"
        aria-haspopup="menu"
        aria-expanded={isOpen}
        aria-label={label}
        title={label}
        onClick={(event) => {
          event.preventDefault();
          event.stopPropagation();
          setOpen(!isOpen);
        }}
      >
        {button}
      </button>
      {isOpen && (
        <div class={`menu ${align} ${up ? "up" : ""}`} role="menu">
          {actions.map((action) => (
            <button
              type="button"
              role="menuitem"
              key={action.label}
              class={`${action.danger ? "danger" : ""} ${action.current ? "current" : ""}`}
              onClick={(event) => {
                event.preventDefault();
                event.stopPropagation();
                setOpen(false);
                action.run();
              }}
            >
              {action.icon && <Icon name={action.icon} size={16} />}
              <span>
                {action.label}
                {action.detail && <small>{action.detail}</small>}
              </span>
              {action.current && <Icon name="check" size={16} />}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}
