/** All corpora, and a drop zone to upload one. */

import { listAll } from "../api.js";
import { dropzone } from "../components/dropzone.js";
import { emptyState, toast } from "../components/notice.js";
import { h } from "../dom.js";
import { byteSize, count, dateTime, integer } from "../format.js";
import { navigate } from "../router.js";

/** @param {import('../router.js').Page} page */
export async function corporaView({ signal }) {
  const corpora = await listAll("/v1/corpora", { signal });
  return h(
    "div",
    { class: "view" },
    h("h1", {}, "Corpora"),
    dropzone({
      signal,
      withSample: corpora.length === 0,
      onUploaded(corpus, isNew) {
        if (!isNew) toast(`This text was uploaded before${corpus.name ? ` as ${corpus.name}` : ""}.`);
        navigate(`/corpora/${corpus.id}`);
      },
    }),
    corpora.length
      ? h("div", { class: "list" }, corpora.map(corpusCard))
      : emptyState(
          "No corpus yet",
          "A corpus is one uploaded text that models are trained on. Drop a text file above, or use the sample text.",
        ),
  );
}

function corpusCard(corpus) {
  return h(
    "article",
    { class: "item" },
    h(
      "div",
      { class: "row apart" },
      h("h2", {}, h("a", { href: `#/corpora/${corpus.id}` }, corpus.name ?? corpus.id)),
      h("a", { class: "button small", href: `#/train?corpus=${corpus.id}` }, "Train a model"),
    ),
    h(
      "p",
      { class: "muted small number" },
      `${integer(corpus.characters)} characters, ${integer(corpus.distinct_characters)} distinct · ${count(corpus.lines, "line")} · ` +
        `${byteSize(corpus.bytes)} · ${dateTime(corpus.created_at)}`,
    ),
    corpus.warnings.length > 0 && h("p", { class: "small" }, count(corpus.warnings.length, "warning")),
  );
}
