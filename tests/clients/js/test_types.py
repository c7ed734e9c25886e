"""The TypeScript declarations: they fit their uses, and have the fields of the API."""

import re
from pathlib import Path
from typing import Any

import pytest

from nextchar.app.main import create_app
from nextchar.app.settings import ApiSettings
from tests.clients.js.node import FOLDER, PACKAGES, node, require_packages

TYPES = (FOLDER / "nextchar.d.ts").read_text()

USE = """
import * as state from "@codemirror/state";
import * as view from "@codemirror/view";
import { Nextchar, NextcharError, Suggester, attach, highlight } from "nextchar";
import type { AnomalousSpan, Calibration, LineScore, Model } from "nextchar";
import { codemirror } from "nextchar/codemirror";
import { monaco } from "nextchar/monaco";
import type * as Monaco from "monaco-editor";

const client = new Nextchar({ url: "https://nextchar.example", key: "k" });
const answer = client.complete("m", "p", { until: "line" });
export const text: Promise<string> = answer.then(({ completions }) => completions[0]!.text);
export async function all(): Promise<string> {
  let text = "";
  for await (const event of client.stream("m", "p", { n: 2 })) if (event.type === "piece") text += event.text;
  return text;
}
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
export const end: () => void = attach(field, { model: "m", mode: "list", announce: (text) => text });
export const found: Promise<AnomalousSpan[]> = highlight(field, { model: "m", live: true }).ready;
export const suggester = new Suggester(client, "m", { until: "confidence", expert: "lstm" });
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
    options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext"]
    node(compiler, *options, "--lib", "es2022,dom,dom.iterable,dom.asynciterable", "use.ts", cwd=tmp_path)


def fields_of(name: str) -> set[str]:
    """Return the fields that an interface declares."""
    body = re.search(rf"^export interface {name} {{$(.*?)^}}$", TYPES, re.MULTILINE | re.DOTALL)
    assert body, name
    return set(re.findall(r"^  (\w+)\??:", body[1], re.MULTILINE))


@pytest.fixture(scope="module")
def openapi(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The API's description."""
    return create_app(ApiSettings(data_dir=tmp_path_factory.mktemp("openapi"))).openapi()


# Where a type is in the API: a path of the description, followed through arrays, unions and references.
ANSWER = ("post", "responses", "200", "content", "application/json", "schema")
BODY = ("post", "requestBody", "content", "application/json", "schema")
SCORE, COMPLETE, NEXT = (f"/v1/models/{{model}}/{name}" for name in ("score", "complete", "next"))
MODEL = ("/v1/models", "get", *ANSWER[1:], "data")


@pytest.mark.parametrize(
    ("name", "path", "positional"),
    [
        ("Model", MODEL, ()),
        ("Network", (*MODEL, "network"), ()),
        ("CompletionFields", (COMPLETE, *BODY), ("prompt", "stream")),
        ("Completion", (COMPLETE, *ANSWER), ()),
        ("Choice", (COMPLETE, *ANSWER, "completions"), ()),
        ("Logprob", (COMPLETE, *ANSWER, "completions", "logprobs"), ()),
        ("Usage", (COMPLETE, *ANSWER, "usage"), ()),
        ("Distribution", (NEXT, *ANSWER), ()),
        ("Candidate", (NEXT, *ANSWER, "candidates"), ()),
        ("ScoreFields", (SCORE, *BODY), ("text", "lines")),
        ("Score", (SCORE, *ANSWER), ()),
        ("LineScore", (SCORE, *ANSWER, "lines"), ()),
        ("Span", (SCORE, *ANSWER, "lines", "spans"), ()),
        ("Candidate", (SCORE, *ANSWER, "lines", "expected"), ()),
        ("Calibration", (SCORE, *ANSWER, "calibration"), ()),
        ("CalibrationBucket", (SCORE, *ANSWER, "calibration", "buckets"), ()),
        ("LineStream", (SCORE, *ANSWER, "stream"), ()),
    ],
)
def test_type_has_the_fields_of_the_api(
    openapi: dict[str, Any], name: str, path: tuple[str, ...], positional: tuple[str, ...]
) -> None:
    place = openapi["paths"]
    for step in path:
        place = resolve(openapi, place)
        place = place["properties"][step] if "properties" in place else place[step]
    assert fields_of(name) == set(resolve(openapi, place)["properties"]) - set(positional)


def test_error_types_are_those_of_the_api(openapi: dict[str, Any]) -> None:
    answer = openapi["paths"][SCORE]["post"]["responses"]["404"]["content"]["application/json"]["schema"]
    detail = resolve(openapi, resolve(openapi, answer)["properties"]["error"])
    declared = re.search(r"^export type ErrorType =(.*?);$", TYPES, re.MULTILINE | re.DOTALL)
    assert declared
    assert set(re.findall(r'"(\w+)"', declared[1])) == {
        *detail["properties"]["type"]["enum"],
        "connection_error",
    }


def resolve(openapi: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the object that a schema is about: what it refers to, its items, or what it is when not null."""
    if "$ref" in schema:
        return resolve(openapi, openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "items" in schema:
        return resolve(openapi, schema["items"])
    if "anyOf" in schema:
        return resolve(openapi, next(one for one in schema["anyOf"] if one.get("type") != "null"))
    return schema
