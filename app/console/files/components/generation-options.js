/** The options of a completion: temperature, seed, length, and where to stop. */

import { h } from "../dom.js";
import { field, rangeField, select } from "./form-fields.js";

const DEFAULT_TEMPERATURE = 0.7;

const LENGTHS = [
  ["20", "20 characters"],
  ["80", "80 characters"],
  ["200", "200 characters"],
  ["1000", "1,000 characters"],
];
const DEFAULT_LENGTH = "200";

/** Values of the API's `until`; the empty one leaves it out. */
const STOPS = [
  ["", "Length limit"],
  ["word", "End of word"],
  ["line", "End of line"],
  ["confidence", "Low confidence"],
];

/** Return the fields; `body()` returns their values as fields of `/complete`. */
export function generationOptions() {
  const temperature = rangeField({
    name: "temperature",
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.05,
    value: DEFAULT_TEMPERATURE,
  });
  const seed = field({
    name: "seed",
    label: "Seed",
    control: h("input", { type: "number", min: 0, step: 1, placeholder: "Random" }),
  });
  const length = field({ name: "length", label: "Length limit", control: select(LENGTHS, DEFAULT_LENGTH) });
  const until = field({ name: "until", label: "Stop at", control: select(STOPS, "") });
  temperature.show(String(DEFAULT_TEMPERATURE));

  return {
    node: h("div.generation-options", temperature.node, seed.node, length.node, until.node),
    temperature: () => Number(temperature.control.value),
    body: () => ({
      temperature: Number(temperature.control.value),
      max_characters: Number(length.control.value),
      ...(seed.control.value === "" ? {} : { seed: Number(seed.control.value) }),
      ...(until.control.value ? { until: until.control.value } : {}),
    }),
    onTemperatureChange(listener) {
      temperature.control.addEventListener("input", () => {
        temperature.show(temperature.control.value);
        listener();
      });
    },
  };
}
