/** The distribution of the next character at the cursor, and its entropy. */

import { apiPath, isAbort, post } from "../api.js";
import { promptFor } from "../completion.js";
import { h, replace } from "../dom.js";
import { bits, characterName, lastCharacters, visibleCharacter } from "../format.js";
import { characterDistribution } from "./bar-chart.js";
import { errorBox } from "./notice.js";

const SETTLE_MS = 60; // after the last move of the cursor
const CANDIDATES = 10;
const MIN_TEMPERATURE = 0.05; // at 0 there is no distribution
const SHOWN_PROMPT_CHARACTERS = 12;
const MAX_UNKNOWN = 8;

/**
 * Return the panel. `update()` requests the distribution now, `updateSoon()` once the cursor rests.
 *
 * @param {{request: () => {model: string, text: string, temperature: number}, onChoose: (character: string) => void,
 *   signal: AbortSignal}} options `request` returns what to ask for
 */
export function nextCharacterPanel({ request, onChoose, signal }) {
  const node = h("div.stack.tight", { "aria-live": "off" });
  let pending = new AbortController();
  let timer = 0;

  function updateSoon() {
    clearTimeout(timer);
    timer = setTimeout(update, SETTLE_MS);
  }

  async function update() {
    pending.abort();
    pending = new AbortController();
    const { model, text, temperature } = request();
    try {
      const response = await post(
        apiPath("/v1/models", model, "next"),
        { prompt: promptFor(text), top: CANDIDATES, temperature: Math.max(MIN_TEMPERATURE, temperature) },
        { signal: pending.signal },
      );
      if (!signal.aborted) draw(text, response);
    } catch (error) {
      if (!isAbort(error) && !signal.aborted) replace(node, errorBox(error, { retry: update }));
    }
  }

  function draw(text, response) {
    const unknown = response.unknown_characters.filter((one) => text.includes(one));
    replace(
      node,
      h(
        "p.small.muted.number",
        text ? ["After ", h("span.mono", `“${endOf(text)}”`)] : "At the start of a line",
        `: entropy ${bits(response.entropy_bits)} bits`,
      ),
      characterDistribution(response.candidates, { onChoose }),
      unknown.length > 0 &&
        h("p.small", `Not in the model’s vocabulary: ${unknown.slice(0, MAX_UNKNOWN).map(characterName).join(" ")}`),
    );
  }

  return { node, update, updateSoon };
}

/** Return the last characters of a text, with control characters visible. */
function endOf(text) {
  return Array.from(lastCharacters(text, SHOWN_PROMPT_CHARACTERS))
    .map((one) => (one === " " ? one : visibleCharacter(one)))
    .join("");
}
