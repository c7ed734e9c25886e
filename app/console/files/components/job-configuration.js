/** The configuration of a job, folded. */

import { h } from "../dom.js";
import { fact } from "./facts.js";

/** @param {any} job */
export function jobConfiguration(job) {
  return h(
    "details.card",
    h("summary", "Configuration"),
    h(
      "div.stack",
      h("p", "Corpus: ", h("a", { href: `#/corpora/${job.corpus}` }, job.corpus)),
      job.kind && h("p", "Kind: ", job.kind),
      job.purpose && h("p", "Purpose: ", job.purpose),
      h("p", "Masks: ", job.masks?.length ? job.masks.join(", ") : "none"),
      job.mixture === false && h("p", "Mixture: none, the network predicts alone"),
      job.preset && h("p", "Preset: ", presetText(job)),
      job.start_from && h("p", "Starts from: ", job.start_from),
      isChosen(job) && options("Network", job.network),
      isChosen(job) ? options("Training", job.training) : options("Training", { budget: job.training.budget }),
    ),
  );
}

/** Whether the network is known: preset auto is decided when training starts. */
const isChosen = (job) => !job.candidates?.length;

function presetText({ preset, chosen_preset: chosen, candidates }) {
  if (candidates?.length) return `${preset}, which chooses when training starts: ${candidates.join(", ")}`;
  return chosen ? `${preset}, which chose ${chosen}` : preset;
}

function options(title, values) {
  return h(
    "div",
    h("h3", title),
    h(
      "dl.facts.plain",
      Object.entries(values).map(([name, value]) => fact(name.replaceAll("_", " "), valueText(value))),
    ),
  );
}

/** Return an option as text; an object, such as a budget, as "60 seconds". */
function valueText(value) {
  if (value === null) return "–";
  if (typeof value !== "object") return String(value);
  return Object.entries(value)
    .filter(([, one]) => one !== null)
    .map(([unit, one]) => `${one} ${unit}`)
    .join(", ");
}
