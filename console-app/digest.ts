// A digest of the sources, kept beside what they were built into: tests/unit/test_console_build.py computes it, too.

import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";

const ROOT = import.meta.dirname;
const OTHERS = ["index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts"];

/** SHA-256 over all sources: path, a zero byte, content, a zero byte; by path. */
export function sourceDigest(): string {
  const files = readdirSync(join(ROOT, "src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)));
  const hash = createHash("sha256");
  for (const file of [...files, ...OTHERS].sort()) hash.update(`${file}\0`).update(readFileSync(join(ROOT, file))).update("\0");
  return hash.digest("hex");
}
