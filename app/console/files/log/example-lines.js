/** Lines to try a model with. */

import { apiPath, get } from "../api.js";

const MAX_LINES = 6;

/** Return some lines of the model's corpus, one of them with inserted characters. Raises ApiError. */
export async function exampleLines(model, signal) {
  const { corpus } = await get(apiPath("/v1/models", model), { signal });
  const { sample } = await get(apiPath("/v1/corpora", corpus), { signal });
  const lines = sample
    .split("\n")
    .filter((line) => line.trim())
    .slice(0, MAX_LINES);
  const anomalous = Math.min(2, lines.length - 1);
  const middle = Math.floor(lines[anomalous].length / 2);
  lines[anomalous] = `${lines[anomalous].slice(0, middle)}#@!~${lines[anomalous].slice(middle)}`;
  return lines.join("\n");
}
