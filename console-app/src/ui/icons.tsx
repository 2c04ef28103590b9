// Line icons on a grid of 24, drawn for this console.

const PATHS = {
  plus: "M12 5v14M5 12h14",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14M20 20l-4-4",
  menu: "M4 7h16M4 12h16M4 17h16",
  dots: "M6 12h.01M12 12h.01M18 12h.01",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M8 8h8v8H8z",
  copy: "M9 9h10v11H9zM5 15V4h10",
  check: "M5 12.5l4.5 4.5L19 7.5",
  retry: "M20 12a8 8 0 1 1-2.6-5.9M20 4v4.5h-4.5",
  edit: "M4 20l1-4L16.5 4.5l3 3L8 19zM14 7l3 3",
  go: "M5 12h13M13 6l6 6-6 6",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  chevron: "M7 10l5 5 5-5",
  attach: "M19 11.5l-7.2 7.2a4.5 4.5 0 0 1-6.4-6.4l7.6-7.6a3 3 0 0 1 4.3 4.3l-7.5 7.4a1.5 1.5 0 0 1-2.1-2.1L14.5 8.5",
  sliders: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2.500v2M12 19.500v2M4.5 4.500l1.5 1.500M18 18l1.5 1.500M2.5 12h2M19.5 12h2M4.5 19.500l1.5-1.500M18 6l1.5-1.5",
  moon: "M20 14.500A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.500z",
  pin: "M9 4h6l-1 6 3 3H7l3-3zM12 13v7",
  trash: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13",
  export: "M12 15V4M8 8l4-4 4 4M5 14v6h14v-6",
  import: "M12 4v11M8 11l4 4 4-4M5 14v6h14v-6",
  chat: "M4 5h16v11H10l-5 4v-4H4z",
  rig: "M4 5h16v5H4zM4 14h16v5H4zM7.5 7.500h.01M7.5 16.500h.01M11 7.500h6M11 16.500h6",
  models: "M12 3l8 4.500v9L12 21l-8-4.500v-9zM4 7.500l8 4.5 8-4.500M12 12v9",
  bench: "M4 20h16M7 20v-7M12 20V5M17 20v-10",
  metrics: "M3 13h4l3-8 4 14 3-6h4",
  key: "M14 4a6 6 0 1 1-4.5 10L8 15.500H6v2H4V15l5.700-5.700A6 6 0 0 1 14 4zM15.5 8.500h.01",
  sleep: "M4 6h7l-7 9h7M14 12h6l-6 7h6",
  wake: "M13 3L5 14h6l-1 7 8-11h-6z",
  tokens: "M4 6h6v5H4zM13 6h7v5h-7zM4 14h9v5H4zM16 14h4v5h-4z",
  help: "M9 9a3 3 0 1 1 4.5 2.600c-1 .6-1.5 1.200-1.5 2.400M12 18h.01",
  out: "M10 4H5v16h5M14 8l4 4-4 4M18 12H9",
} as const;

export type IconName = keyof typeof PATHS;

export const Icon = ({ name, size = 18 }: { name: IconName; size?: number }) => (
  <svg class="icon" width={size} height={size} viewBox="0 0 24 24" aria-hidden="true">
    <path d={PATHS[name]} />
  </svg>
);

export const Logo = () => (
  <svg class="logo" width="20" height="20" viewBox="0 0 16 16" aria-hidden="true">
    <rect x="1" y="2" width="14" height="3" rx="1.5" />
    <rect x="1" y="6.5" width="14" height="3" rx="1.5" opacity=".7" />
    <rect x="1" y="11" width="14" height="3" rx="1.5" opacity=".4" />
  </svg>
);
