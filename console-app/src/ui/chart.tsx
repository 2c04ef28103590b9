// Small line charts that live figures are drawn into.

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { clock } from "../lib/format";
import { theme } from "../lib/theme";

export interface Line {
  label: string;
  color: string; // a CSS variable's name
  values: (number | null)[];
}

interface Props {
  title: string;
  value: string; // the newest, in words
  times: number[]; // seconds since 1970
  lines: Line[];
  max?: number;
  format: (value: number) => string;
}

const color = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function LiveChart({ title, value, times, lines, max, format }: Props) {
  const holder = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const shade = theme.value;
  useEffect(() => {
    const element = holder.current!;
    const axis = { stroke: color("--dim"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    plot.current = new uPlot(
      {
        width: element.clientWidth,
        height: 96,
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false } },
        padding: [6, 26, 0, 0],
        scales: { x: { time: true }, y: { range: (_, __, highest) => [0, max ?? Math.max(highest * 1.15, 1)] } },
        axes: [
          { ...axis, size: 18, space: 90, values: (_, marks) => marks.map((mark) => clock(mark)) },
          { ...axis, size: 52, space: 28, values: (_, marks) => marks.map(format) },
        ],
        series: [
          {},
          ...lines.map((line) => ({ label: line.label, stroke: color(line.color), fill: `${color(line.color)}22`, width: 1.5, points: { show: false } })),
        ],
      },
      [times, ...lines.map((line) => line.values)] as uPlot.AlignedData,
      element,
    );
    const observer = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: 96 }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      plot.current?.destroy();
    };
  }, [shade, lines.length, max]);
  useEffect(() => {
    plot.current?.setData([times, ...lines.map((line) => line.values)] as uPlot.AlignedData);
  });
  return (
    <figure class="chart">
      <figcaption>
        <span>{title}</span> <b>{value}</b>
      </figcaption>
      <div ref={holder} role="img" aria-label={`${title}: ${value}`} />
    </figure>
  );
}
