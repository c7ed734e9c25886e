/** Continuations of one text by several models, side by side. */

import { ApiError } from "../api.js";
import { streamCompletion } from "../completion.js";
import { h, replace } from "../dom.js";
import { bits, count, decimal, integer, lastCharacters } from "../format.js";
import { field, select } from "./form-fields.js";
import { placeholders } from "./marked-line.js";
import { errorBox } from "./notice.js";

const MAX_MODELS = 4;
const SHOWN_PROMPT_CHARACTERS = 80;

/**
 * Return the columns, the field that adds a model, `setModel(id)` for the first column and `generate()` for all.
 *
 * @param {{models: string[], model: string, promptText: () => string, options: () => any,
 *   onInsert: (text: string) => void, signal: AbortSignal}} options `models` are the ids to choose from, `options`
 *   returns the fields of `/complete`
 */
export function continuationColumns({ models, model, promptText, options, onInsert, signal }) {
  const node = h("div.columns");
  const compareField = h("div.stack.tight");
  const others = new Set();
  let running = new AbortController();

  function draw() {
    running.abort();
    replace(
      node,
      [model, ...others].map((id) => column(id)),
    );
    const addable = models.filter((id) => id !== model && !others.has(id));
    const canAdd = addable.length > 0 && others.size < MAX_MODELS - 1;
    replace(compareField, canAdd && modelAdder(addable));
  }

  function modelAdder(addable) {
    const control = select([["", "Select a model"], ...addable], "", {
      onchange: () => {
        others.add(control.value);
        draw();
      },
    });
    return field({ name: "compare", label: "Compare with…", control }).node;
  }

  function column(id) {
    const removeButton = h(
      "button.link.small",
      {
        "aria-label": `Remove ${id}`,
        onclick: () => {
          others.delete(id);
          draw();
        },
      },
      "Remove",
    );
    return h(
      "section.card.stack.tight",
      { "data-model": id, "aria-label": `Continuation by ${id}` },
      h("div.row.apart", h("h2", id), id !== model && removeButton),
      h("div.output", h("p.muted.small", "“Generate” continues your text from the cursor.")),
    );
  }

  async function generate() {
    running.abort();
    running = new AbortController();
    const text = promptText();
    const abort = AbortSignal.any([signal, running.signal]);
    await Promise.all([...node.children].map((one) => continueIn(one, text, abort)));
  }

  async function continueIn(section, text, abort) {
    const output = section.querySelector(".output");
    const generated = h("span.generated");
    const footer = h("div.row.apart.small.muted");
    const prompt = h("span.muted", lastCharacters(text, SHOWN_PROMPT_CHARACTERS));
    const paragraph = h("p.continuation", { "aria-busy": "true" }, prompt, generated);
    replace(output, paragraph, footer);
    const startedAt = performance.now();
    /** @type {number | undefined} */ let firstAt;
    try {
      const finished = await streamCompletion(section.dataset.model, text, options(), {
        signal: abort,
        onText(piece) {
          firstAt ??= performance.now();
          generated.append(...[placeholders(Array.from(piece))].flat());
        },
      });
      replace(
        footer,
        h("span.number", finished && summaryOf(finished), firstAt && `, ${speedOf(finished, startedAt, firstAt)}`),
        h("button.link", { onclick: () => onInsert(generated.textContent) }, "Insert"),
      );
    } catch (error) {
      if (abort.aborted) return;
      const isDeleted = error.status === 404;
      const message = `There is no model ${section.dataset.model}`;
      replace(output, errorBox(isDeleted ? new ApiError(404, { message }) : error));
    }
    paragraph.removeAttribute("aria-busy");
  }

  draw();
  return {
    node,
    compareField,
    generate,
    setModel(id) {
      model = id;
      others.delete(id);
      draw();
    },
  };
}

/** Return how soon the first character came, and how fast all did. */
function speedOf(finished, startedAt, firstAt) {
  const perSecond = (1000 * (finished?.characters ?? 0)) / (performance.now() - startedAt);
  return `first after ${decimal(firstAt - startedAt, 0)} ms, ${integer(perSecond)} characters per second`;
}

function summaryOf({ characters, bits: totalBits }) {
  return `${count(characters, "character")}, ${bits(characters ? totalBits / characters : 0)} bits per character`;
}
