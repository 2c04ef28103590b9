import { defineConfig } from "vite";
import { sourceDigest } from "./digest.ts";

export default defineConfig({
  base: "/console/",
  build: {
    outDir: "../src/rowspan/console/static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 490,
    license: { fileName: "licenses.md" }, // of what is bundled
  },
  server: { proxy: { "^/(v1|metrics|props|health|models|console/api)": "http://127.0.0.1:8000" } },
  plugins: [
    {
      name: "source-digest",
      generateBundle() {
        this.emitFile({ type: "asset", fileName: "sources.sha256", source: `${sourceDigest()}\n` });
      },
    },
  ],
});
