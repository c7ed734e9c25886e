"""The TypeScript declarations fit their uses."""

from pathlib import Path

from tests.clients.js.node import FOLDER, PACKAGES, node, require_packages

USE = """
import * as state from "@codemirror/state";
import * as view from "@codemirror/view";
import { Nextchar, NextcharError, Suggester, attach, highlight } from "nextchar";
import type { AnomalousSpan, AttachOptions, Calibration, LineScore, Model } from "nextchar";
import { codemirror } from "nextchar/codemirror";
import { monaco } from "nextchar/monaco";
import { load } from "nextchar/offline";
import { useNextchar } from "nextchar/react";
import type * as Monaco from "monaco-editor";

const client = new Nextchar({ url: "https://nextchar.example", key: "k" });
const answer = client.complete("m", "p", { until: "line" });
export const text: Promise<string> = answer.then(({ completions }) => completions[0]!.text);
export async function all(): Promise<string> {
  let text = "";
  for await (const event of client.stream("m", "p", { n: 2 })) if (event.type === "piece") text += event.text;
  return text;
}
export const cities: Promise<boolean[]> = client
  .suggest("m", "berln", { typos: 1, constrain: "prefer" })
  .then(({ suggestions }) => suggestions.map(({ exists, replaced }) => exists && replaced !== null));
export const models: Promise<Model[]> = client.models({ timeout: 1000 });
export const layers = async (): Promise<number> => (await models)[0]!.network.layers;
export async function anomalies(lines: string[]): Promise<LineScore[]> {
  const score = await client.score("m", lines, { false_alarms: 0.001, detail: "line" });
  const calibration: Calibration | null = score.calibration;
  if (calibration === null) return [];
  return score.lines.filter(({ anomalous, spans }) => anomalous && spans?.every(({ bits }) => bits > 0));
}
export const either = (input: string | string[]) => client.score("m", input);
export const bits = async (): Promise<number[] | null> => (await client.score("m", "text")).bits;
export function advice(error: unknown): string {
  if (!(error instanceof NextcharError)) throw error;
  if (error.code === "origin_not_allowed") return "set NEXTCHAR_ALLOWED_ORIGINS";
  return error.type === "rate_limit_error" ? `wait ${error.retryAfter ?? 1} s` : error.message;
}
export const extension: state.Extension = codemirror({ model: "m" }, { state, view });
export const provider = (editor: typeof Monaco) => monaco({ model: "m", until: "word" }, editor, "lua");
const field = document.createElement("textarea");
field.addEventListener("nextchar:error", ({ detail }) => detail.error instanceof NextcharError);
export const end: () => void = attach(field, { model: "m", announce: (text) => text });
const list: AttachOptions = { model: "m", mode: "list", min: 2, report: "ids", describe: ({ text }) => text };
export const attachInReact: (field: HTMLInputElement | null) => void = useNextchar(list);
export const found: Promise<AnomalousSpan[]> = highlight(field, { model: "m", live: true }).ready;
export const suggester = new Suggester(client, "m", { until: "confidence", expert: "lstm" });
export async function offline(): Promise<string> {
  const model = await load("model.nextchar", { integrity: "sha256-…", remember: true });
  const { completions } = await model.complete("p", { max_characters: 20, onText: (text) => text.length });
  for await (const one of model.stream("p")) if (one.type === "piece") one.text.length;
  attach(field, { client: model.client });
  new Suggester(model.client, undefined);
  // @ts-expect-error: only the service has beams
  await model.complete("p", { beam: 2 });
  return completions[0]!.text + model.info.name;
}
attach(field, { model: "m", file: "model.nextchar", first: "file" });
// @ts-expect-error: there is no such mode
attach(field, { mode: "menu" });
// @ts-expect-error: there is no such field
client.score("m", "text", { falseAlarms: 0.01 });
// @ts-expect-error: null for a text
client.score("m", "text").then(({ lines }) => lines[0]);
"""


def test_types_fit_how_it_is_used(tmp_path: Path) -> None:
    require_packages("typescript", "@codemirror/state", "@codemirror/view", "monaco-editor")
    (tmp_path / "use.ts").write_text(USE)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    modules = tmp_path / "node_modules"
    modules.mkdir()
    for name in ("@codemirror", "@marijn", "monaco-editor", "style-mod", "crelt", "w3c-keyname"):
        (modules / name).symlink_to(PACKAGES / name)
    (modules / "nextchar").symlink_to(FOLDER)
    compiler = str(PACKAGES / "typescript" / "bin" / "tsc")
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext"]
    options += ["--lib", "es2022,dom,dom.iterable,dom.asynciterable"]
    node(compiler, *options, "nextchar.d.ts", cwd=FOLDER)
    node(compiler, *options, "--skipLibCheck", "use.ts", cwd=tmp_path)
