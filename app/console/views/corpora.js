/** All texts: drop one, see what there is. */

import { list } from "../api.js";
import { h } from "../dom.js";
import { dropzone } from "../components/dropzone.js";
import { count, moment, size, whole } from "../format.js";
import { empty, toast } from "../components/notice.js";
import { go } from "../router.js";

/** @param {import('../router.js').Page} page */
export async function corporaView({ signal }) {
  const corpora = await list("/v1/corpora", { signal });
  return h(
    "div",
    { class: "view" },
    h("h1", {}, "Texts"),
    dropzone({
      signal,
      withSample: corpora.length === 0,
      onDone(corpus, isNew) {
        if (!isNew) toast(`The service has this text already${corpus.name ? `, as ${corpus.name}` : ""}.`);
        go(`/corpora/${corpus.id}`);
      },
    }),
    corpora.length
      ? h("div", { class: "list" }, corpora.map(item))
      : empty(
          "No text yet",
          "A text is what a model learns from. Drop one above, or take the sample text to see how it goes.",
        ),
  );
}

function item(corpus) {
  return h(
    "article",
    { class: "item" },
    h(
      "div",
      { class: "row apart" },
      h("h2", {}, h("a", { href: `#/corpora/${corpus.id}` }, corpus.name ?? corpus.id)),
      h("a", { class: "button small", href: `#/train?corpus=${corpus.id}` }, "Train on it"),
    ),
    h(
      "p",
      { class: "muted small number" },
      `${whole(corpus.characters)} characters, ${whole(corpus.distinct_characters)} distinct · ${count(corpus.lines, "line")} · ` +
        `${size(corpus.bytes)} · ${moment(corpus.created_at)}`,
    ),
    corpus.warnings.length > 0 && h("p", { class: "small" }, count(corpus.warnings.length, "warning")),
  );
}
