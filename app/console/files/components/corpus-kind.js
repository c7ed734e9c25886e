/** What a corpus is: the kind that the service has detected, why, and a select that changes it. */

import { apiPath, patch } from "../api.js";
import { field, select } from "./form-fields.js";
import { sentence } from "./notice.js";

const LABELS = {
  text: "Text: prose, verse or anything else",
  records: "Records: independent lines, such as names, terms or requests",
  log: "Log: lines in order of time",
  code: "Code",
};

/**
 * Return a field that shows the kind of a corpus and stores a change at once.
 *
 * @param {any} corpus
 * @param {(corpus: any) => void} [onChanged] called with the changed corpus
 */
export function corpusKind(corpus, onChanged = () => {}) {
  const control = select(
    Object.entries(LABELS).map(([kind, label]) => [kind, label]),
    corpus.kind ?? "text",
    { onchange: store },
  );
  const help = document.createTextNode(description(corpus));
  const { node, setError } = field({ name: "kind", label: "Kind", control, help });

  async function store() {
    control.disabled = true;
    setError(null);
    try {
      const changed = await patch(apiPath("/v1/corpora", corpus.id), { kind: control.value });
      help.data = description(changed);
      onChanged(changed);
    } catch (error) {
      setError(sentence(error.message));
    }
    control.disabled = false;
  }

  return node;
}

/** Return why a corpus has its kind, and what training does because of it. */
function description({ kind, kind_reason: reason }) {
  const effect =
    kind === "records"
      ? "Training shuffles the lines and holds out some at random."
      : "Training keeps the order of the lines and holds out the end.";
  return [reason && sentence(reason), effect].filter(Boolean).join(" ");
}
