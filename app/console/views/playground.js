/**
 * Write with a model: ghost text, the next character's distribution wherever the cursor is, and how several
 * models go on from there, side by side.
 */

import { ApiError, at, post } from "../api.js";
import { distribution } from "../components/bar-chart.js";
import { complete, promptOf } from "../completion.js";
import { h, replace } from "../dom.js";
import { field, select } from "../components/form-fields.js";
import { bits, count, spoken, tail, visible } from "../format.js";
import { goneModel, modelsFor, modelSelect, noModel } from "../components/model-picker.js";
import { failure } from "../components/notice.js";
import { writer } from "../components/ghost-textarea.js";

const SETTLED_MS = 60; // after the last move of the cursor
const TOP = 10;
const MOST = 4;

let draft = ""; // what was written last, while the console is open

/** @param {import('../router.js').Page} page */
export async function playgroundView(page) {
  const { signal } = page;
  const { models, chosen, missing } = await modelsFor(page);
  if (!models.length)
    return h("div", { class: "view" }, h("h1", {}, "Playground"), noModel("Here one writes with a model."));
  let model = chosen;
  const others = new Set();

  const area = writer({ model, label: "Your text", value: draft, rows: 8 });
  const next = h("div", { class: "stack tight", "aria-live": "off" });
  const columns = h("div", { class: "columns" });
  const options = settings();
  const picker = field({
    name: "model",
    label: "Model",
    control: modelSelect(models, model, (id) => {
      model = id;
      others.delete(id);
      area.setAttribute("data-nextchar", id);
      drawColumns();
      look();
    }),
  });
  const beside = h("div", { class: "stack tight" });

  const prompt = () => area.value.slice(0, area.selectionEnd ?? area.value.length);

  /* The distribution under the cursor */

  let looking = new AbortController();
  let timer = 0;

  function lookSoon() {
    draft = area.value;
    clearTimeout(timer);
    timer = setTimeout(look, SETTLED_MS);
  }

  async function look() {
    looking.abort();
    looking = new AbortController();
    const text = prompt();
    try {
      const temperature = Math.max(0.05, options.temperature());
      const found = await post(
        at("/v1/models", model, "next"),
        { prompt: promptOf(text), top: TOP, temperature },
        { signal: looking.signal },
      );
      if (signal.aborted) return;
      const unknown = found.unknown_characters.filter((one) => text.includes(one));
      replace(
        next,
        h(
          "p",
          { class: "small muted number" },
          "After ",
          h(
            "span",
            { class: "mono" },
            text
              ? `“${Array.from(tail(text, 12))
                  .map((c) => (c === " " ? " " : visible(c)))
                  .join("")}”`
              : "nothing",
          ),
          ` · ${bits(found.entropy_bits)} bits of doubt`,
        ),
        distribution(found.candidates, { onChoose: insert }),
        unknown.length > 0 &&
          h("p", { class: "small" }, `It has never seen ${unknown.slice(0, 8).map(spoken).join(" ")}`),
      );
    } catch (error) {
      if (error.name !== "AbortError" && !signal.aborted) replace(next, failure(error, { retry: look }));
    }
  }

  function insert(text) {
    const end = area.selectionEnd;
    area.setRangeText(text, end, end, "end");
    area.dispatchEvent(new Event("input", { bubbles: true }));
    area.focus();
    lookSoon();
  }

  for (const name of ["input", "keyup", "pointerup", "focus"]) area.addEventListener(name, lookSoon);

  /* Side by side */

  let running = new AbortController();

  function drawColumns() {
    running.abort();
    replace(
      columns,
      [model, ...others].map((id) => column(id)),
    );
    const left = models.filter((one) => one.id !== model && !others.has(one.id));
    replace(
      beside,
      left.length > 0 &&
        others.size < MOST - 1 &&
        field({
          name: "beside",
          label: "Put another beside it",
          control: select([["", "choose a model"], ...left.map((one) => one.id)], "", {
            onchange: (event) => {
              others.add(event.target.value);
              drawColumns();
            },
          }),
        }).node,
    );
  }

  function column(id) {
    return h(
      "section",
      { class: "card stack tight", "data-model": id, "aria-label": `${id} goes on` },
      h(
        "div",
        { class: "row apart" },
        h("h2", {}, id),
        id !== model &&
          h(
            "button",
            {
              type: "button",
              class: "link small",
              "aria-label": `Take ${id} away`,
              onclick: () => {
                others.delete(id);
                drawColumns();
              },
            },
            "take away",
          ),
      ),
      h(
        "div",
        { class: "out" },
        h("p", { class: "muted small" }, "“Go on” shows how it continues your text from the cursor."),
      ),
    );
  }

  async function goOn() {
    running.abort();
    running = new AbortController();
    signal.addEventListener("abort", () => running.abort(), { once: true });
    const text = prompt();
    await Promise.all([...columns.children].map((one) => continuation(one, text, running.signal)));
  }

  async function continuation(place, text, stop) {
    const out = place.querySelector(".out");
    const added = h("span", { class: "new" });
    const foot = h("div", { class: "row apart small muted" });
    replace(
      out,
      h("p", { class: "continuation", "aria-busy": "true" }, h("span", { class: "muted" }, tail(text, 80)), added),
      foot,
    );
    try {
      const ended = await complete(place.dataset.model, text, options.body(), {
        signal: stop,
        onText: (piece) => {
          added.textContent += piece;
        },
      });
      replace(
        foot,
        h(
          "span",
          { class: "number" },
          ended &&
            `${count(ended.characters, "character")}, ${bits(ended.characters ? ended.bits / ended.characters : 0)} bits each`,
        ),
        h("button", { type: "button", class: "link", onclick: () => insert(added.textContent) }, "Insert"),
      );
    } catch (error) {
      if (stop.aborted || signal.aborted) return;
      replace(
        out,
        failure(error.status === 404 ? new ApiError(404, { message: `${place.dataset.model} is gone` }) : error),
      );
    }
    out.firstElementChild?.removeAttribute("aria-busy");
  }

  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      goOn();
    }
  });
  options.onChange(look);
  drawColumns();
  look();

  return h(
    "div",
    { class: "view" },
    h("h1", {}, "Playground"),
    goneModel(missing, chosen),
    h(
      "div",
      { class: "beside" },
      h(
        "section",
        { class: "card stack", "aria-label": "Write" },
        h("div", { class: "columns" }, picker.node, beside),
        area,
        options.node,
        h(
          "div",
          { class: "row" },
          h("button", { type: "button", class: "button primary", onclick: goOn }, "Go on"),
          h(
            "span",
            { class: "muted small" },
            h("kbd", {}, "Tab"),
            " takes the ghost text, ",
            h("kbd", {}, "Ctrl"),
            " ",
            h("kbd", {}, "→"),
            " a word of it, ",
            h("kbd", {}, "Ctrl"),
            " ",
            h("kbd", {}, "Enter"),
            " goes on",
          ),
        ),
      ),
      h("section", { class: "card stack" }, h("h2", {}, "The next character"), next),
    ),
    columns,
  );
}

/** How completions are drawn. */
function settings() {
  const temperature = field({
    name: "temperature",
    label: "Temperature",
    control: h("input", { type: "range", min: 0, max: 2, step: 0.05, value: 0.7 }),
  });
  const shown = h("output", { class: "number" }, "0.7");
  temperature.label.append(" ", shown);
  const seed = field({
    name: "seed",
    label: "Seed",
    control: h("input", { type: "number", min: 0, step: 1, placeholder: "any" }),
  });
  const length = field({
    name: "length",
    label: "At most",
    control: select(
      [
        ["20", "20 characters"],
        ["80", "80 characters"],
        ["200", "200 characters"],
        ["1000", "1,000 characters"],
      ],
      "200",
    ),
  });
  const until = field({
    name: "until",
    label: "End with",
    control: select(
      [
        ["", "the length"],
        ["word", "a word"],
        ["line", "the line"],
        ["confidence", "doubt"],
      ],
      "",
    ),
  });
  return {
    node: h("div", { class: "four" }, temperature.node, seed.node, length.node, until.node),
    temperature: () => Number(temperature.control.value),
    body: () => ({
      temperature: Number(temperature.control.value),
      max_characters: Number(length.control.value),
      ...(seed.control.value === "" ? {} : { seed: Number(seed.control.value) }),
      ...(until.control.value ? { until: until.control.value } : {}),
    }),
    onChange(listener) {
      temperature.control.addEventListener("input", () => {
        shown.textContent = temperature.control.value;
        listener();
      });
    },
  };
}
