/** One text: its statistics, how it begins, what may make it learn badly. */

import { at, get, list, remove } from "../api.js";
import { confirmed } from "../components/dialog.js";
import { h, replace } from "../dom.js";
import { moment, size, whole } from "../format.js";
import { failure, hint, toast, warning } from "../components/notice.js";
import { go } from "../router.js";

/** @param {import('../router.js').Page} page */
export async function corpusView({ params, signal }) {
  const corpus = await get(at("/v1/corpora", params.corpus), { signal });
  const models = (await list("/v1/models", { signal })).filter((model) => model.corpus === corpus.id);
  const said = h("div", {});
  const name = corpus.name ?? corpus.id;

  async function deleteIt() {
    const sure = await confirmed({
      title: `Delete ${name}?`,
      text: "The text is gone then. Models that were trained on it stay.",
      action: "Delete the text",
    });
    if (!sure) return;
    try {
      await remove(at("/v1/corpora", corpus.id));
      toast(`${name} is deleted.`);
      go("/corpora", { replacing: true });
    } catch (error) {
      replace(said, failure(error));
    }
  }

  return h(
    "div",
    { class: "view" },
    h("p", { class: "crumb" }, h("a", { href: "#/corpora" }, "Texts"), " / ", name),
    h(
      "div",
      { class: "row apart" },
      h("h1", {}, name),
      h(
        "div",
        { class: "row" },
        h("a", { class: "button primary", href: `#/train?corpus=${corpus.id}` }, "Train on it"),
        h("button", { class: "button danger", type: "button", onclick: deleteIt }, "Delete"),
      ),
    ),
    said,
    corpus.warnings.length > 0 &&
      warning(
        h("p", { class: "strong" }, "What may make it learn badly"),
        corpus.warnings.map((one) => h("p", {}, one)),
      ),
    h(
      "section",
      { class: "card", "aria-label": "Statistics" },
      h(
        "dl",
        { class: "facts" },
        fact("Characters", whole(corpus.characters)),
        fact("Distinct", whole(corpus.distinct_characters)),
        fact("Lines", whole(corpus.lines)),
        fact("Longest line", whole(corpus.longest_line)),
        fact("Size", size(corpus.bytes)),
        fact("Uploaded", moment(corpus.created_at)),
      ),
    ),
    corpus.suggested_masks?.length > 0 &&
      hint(
        h(
          "p",
          {},
          "This is a log. Training masks what changes from line to line: ",
          corpus.suggested_masks.map((name) => name.replaceAll("_", " ")).join(", "),
          ". You can choose otherwise before you train.",
        ),
      ),
    h("section", { class: "stack tight" }, h("h2", {}, "How it begins"), h("div", { class: "sample" }, corpus.sample)),
    models.length > 0 &&
      h(
        "section",
        { class: "stack tight" },
        h("h2", {}, "Trained on it"),
        h(
          "ul",
          { class: "row" },
          models.map((model) => h("li", {}, h("a", { href: `#/models/${encodeURIComponent(model.id)}` }, model.id))),
        ),
      ),
    h("p", { class: "muted small" }, "Id ", h("code", {}, corpus.id), " · SHA-256 ", h("code", {}, corpus.sha256)),
  );
}

function fact(label, value) {
  return h("div", {}, h("dt", {}, label), h("dd", {}, value));
}
