/** The short form of training: upload a corpus, choose a training time, train. */

import { post } from "../api.js";
import { h, inlineCode, replace } from "../dom.js";
import { corpusName, count, integer } from "../format.js";
import { navigate } from "../router.js";
import { corpusKind } from "./corpus-kind.js";
import { dropzone } from "./dropzone.js";
import { errorBox, sentence, warningBox } from "./notice.js";

/** Seconds, label, and what a model learns in that time. */
const BUDGETS = [
  [20, "20 seconds", "for a quick test"],
  [60, "1 minute", "learns words"],
  [300, "5 minutes", "learns phrases"],
];
const DEFAULT_SECONDS = 60;
const SAMPLE_CHARACTERS = 220;
const SAMPLE_LINES = 8;

/** Return a drop zone that is replaced by a training form after the upload. @param {{signal: AbortSignal}} options */
export function quickTrain({ signal }) {
  const node = h("div.stack");

  function showDropzone() {
    replace(node, dropzone({ signal, withSample: true, onUploaded: showForm }));
  }

  function showForm(corpus) {
    const { form, submitButton } = trainingForm(corpus, { onOtherText: showDropzone });
    replace(node, form);
    submitButton.focus({ preventScroll: true });
  }

  showDropzone();
  return node;
}

function trainingForm(corpus, { onOtherText }) {
  const name = h("input", {
    id: "model-name",
    type: "text",
    value: corpus.name ?? "my-text",
    required: true,
    spellcheck: "false",
    pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}",
    autocomplete: "off",
    "aria-describedby": "model-name-help",
  });
  const status = h("div", { "aria-live": "polite" });
  const submitButton = h("button.button.primary.large", { type: "submit" }, "Train");

  async function submit(event) {
    event.preventDefault();
    submitButton.disabled = true;
    const seconds = Number(new FormData(event.target).get("budget"));
    try {
      const job = await post("/v1/jobs", { corpus: corpus.id, name: name.value, budget: { seconds } });
      navigate(`/jobs/${job.id}`);
    } catch (error) {
      submitButton.disabled = false;
      replace(status, errorBox(error));
    }
  }

  const form = h(
    "form.card.stack.fade-in",
    { onsubmit: submit, "aria-label": "Train on this corpus" },
    h(
      "div.row.apart",
      h(
        "p",
        h("span.strong", corpusName(corpus)),
        h(
          "span.muted",
          ` · ${integer(corpus.characters)} characters, ${integer(corpus.distinct_characters)} distinct, ${count(corpus.lines, "line")}`,
        ),
      ),
      h("button.link", { onclick: onOtherText }, "Use another text"),
    ),
    h("div.sample", beginning(corpus.sample)),
    corpus.warnings.length > 0 && warningBox(corpus.warnings.map((text) => h("p", inlineCode(sentence(text))))),
    corpusKind(corpus),
    h(
      "fieldset",
      h("legend", "Training time"),
      h(
        "div.choices",
        BUDGETS.map(([seconds, label, description]) =>
          h(
            "label.choice",
            h("input", { type: "radio", name: "budget", value: seconds, checked: seconds === DEFAULT_SECONDS }),
            h("span.strong", label),
            h("span.muted.small", description),
          ),
        ),
      ),
    ),
    h("div.row.ends", h("div.field.grow", h("label", { for: "model-name" }, "Model name"), name), submitButton),
    h(
      "p.muted.small",
      { id: "model-name-help" },
      "Letters, digits, “.”, “_” and “-”. ",
      h("a", { href: `#/train?corpus=${encodeURIComponent(corpus.id)}` }, "Advanced options"),
      ": network, training, masks, seed.",
    ),
    status,
  );
  return { form, submitButton };
}

/** Return the first lines of a sample, so that those of a list leave the form on the screen. */
function beginning(sample) {
  return sample.slice(0, SAMPLE_CHARACTERS).split("\n").slice(0, SAMPLE_LINES).join("\n");
}
