/**
 * Bundles a page's script with esbuild and the compilers of Vue and Svelte, as a project's build tool does.
 *
 *     node bundle.mjs NODE_MODULES ENTRY OUTPUT
 */

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";

const [packages, entry, output] = process.argv.slice(2);
const require = createRequire(join(packages, "/"));

const vue = {
  name: "vue",
  setup({ onLoad }) {
    onLoad({ filter: /\.vue$/ }, async ({ path }) => {
      const { compileScript, parse } = require("vue/compiler-sfc");
      const { descriptor, errors } = parse(await readFile(path, "utf8"), { filename: path });
      if (errors.length) return { errors: errors.map(({ message }) => ({ text: message })) };
      const { content } = compileScript(descriptor, { id: basename(path), inlineTemplate: true });
      return { contents: content, resolveDir: dirname(path) };
    });
  },
};

const svelte = {
  name: "svelte",
  setup({ onLoad }) {
    onLoad({ filter: /\.svelte$/ }, async ({ path }) => {
      const { compile } = require("svelte/compiler");
      const { js, warnings } = compile(await readFile(path, "utf8"), { filename: path, generate: "client" });
      // A warning fails the build: the recipes are to be free of them.
      return { contents: js.code, resolveDir: dirname(path), errors: warnings.map(({ message }) => ({ text: message })) };
    });
  },
};

await require("esbuild").build({
  entryPoints: [entry],
  outfile: output,
  bundle: true,
  format: "esm",
  jsx: "automatic",
  conditions: ["browser", "development"],
  define: {
    "process.env.NODE_ENV": '"development"',
    __VUE_OPTIONS_API__: "true",
    __VUE_PROD_DEVTOOLS__: "false",
    __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false",
  },
  nodePaths: [packages],
  plugins: [vue, svelte],
  logLevel: "warning",
});
