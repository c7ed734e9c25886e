/** All corpora, and a drop zone to upload one. */

import { apiPath, listAll } from "../api.js";
import { dataTable, numberColumn, timeColumn } from "../components/data-table.js";
import { dropzone } from "../components/dropzone.js";
import { attemptIn, deleteAll, emptyState, sentence, toast } from "../components/notice.js";
import { h } from "../dom.js";
import { byteSize, corpusName, count, integer } from "../format.js";
import { navigate } from "../router.js";

/** @param {import('../router.js').Page} page */
export async function corporaView({ signal, reload }) {
  const corpora = await listAll("/v1/corpora", { signal });
  const status = h("div");
  const table = dataTable({
    noun: "corpus",
    key: (corpus) => corpus.id,
    text: (corpus) => `${corpusName(corpus)} ${corpus.kind ?? ""} ${corpus.id}`,
    sort: ["Created", true],
    columns: [
      {
        label: "Name",
        isTitle: true,
        value: corpusName,
        cell: (corpus) => [
          h("a", { href: `#/corpora/${corpus.id}` }, corpusName(corpus)),
          corpus.warnings.length > 0 && [
            " ",
            h(
              "span.badge.paused",
              { title: corpus.warnings.map(sentence).join(" ") },
              count(corpus.warnings.length, "warning"),
            ),
          ],
        ],
      },
      { label: "Kind", value: (corpus) => corpus.kind ?? "" },
      numberColumn("Characters", (corpus) => corpus.characters, integer),
      numberColumn("Distinct", (corpus) => corpus.distinct_characters, integer),
      numberColumn("Lines", (corpus) => corpus.lines, integer),
      numberColumn("Size", (corpus) => corpus.bytes, byteSize),
      timeColumn("Created", (corpus) => corpus.created_at),
      {
        label: "Train",
        cell: (corpus) =>
          h("a", { href: `#/train?corpus=${corpus.id}`, "aria-label": `Train on ${corpusName(corpus)}` }, "Train"),
      },
    ],
    actions: [
      {
        label: "Delete",
        isDanger: true,
        run: (chosen) =>
          deleteAll("corpus", chosen, {
            name: corpusName,
            path: ({ id }) => apiPath("/v1/corpora", id),
            text: "The texts are deleted. Models trained on them are kept. This cannot be undone.",
            attempt: attemptIn(status, signal),
            onDeleted: reload,
          }),
      },
    ],
    empty: emptyState(
      "No corpus yet",
      "A corpus is one uploaded text that models are trained on. Drop a text file above, or use the sample text.",
    ),
    signal,
  });
  table.update(corpora);
  return h(
    "div.view",
    h("h1", "Corpora"),
    dropzone({
      signal,
      withSample: corpora.length === 0,
      onUploaded(corpus, isNew) {
        if (!isNew) toast(`This text was uploaded before${corpus.name ? ` as ${corpus.name}` : ""}.`);
        navigate(`/corpora/${corpus.id}`);
      },
    }),
    status,
    table.node,
  );
}
