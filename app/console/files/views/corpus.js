/** One corpus: its statistics, its first characters, its warnings, and the models trained on it. */

import { apiPath, get, listAll } from "../api.js";
import { corpusKind } from "../components/corpus-kind.js";
import { fact } from "../components/facts.js";
import { attemptIn, deleteAll, hintBox, sentence, warningBox } from "../components/notice.js";
import { h, inlineCode, replace } from "../dom.js";
import { byteSize, corpusName, dateTime, integer } from "../format.js";
import { navigate } from "../router.js";

/** @param {import('../router.js').Page} page */
export async function corpusView({ params, signal }) {
  const corpus = await get(apiPath("/v1/corpora", params.corpus), { signal });
  const models = (await listAll("/v1/models", { signal })).filter((model) => model.corpus === corpus.id);
  const status = h("div");
  const masks = h("div", maskHint(corpus));
  const name = corpusName(corpus);

  const deleteCorpus = () =>
    deleteAll("corpus", [corpus], {
      name: corpusName,
      path: ({ id }) => apiPath("/v1/corpora", id),
      text: "The text is deleted. Models trained on it are kept. This cannot be undone.",
      attempt: attemptIn(status, signal),
      onDeleted: () => navigate("/corpora", { replaces: true }),
    });

  return h(
    "div.view",
    h("p.breadcrumb", h("a", { href: "#/corpora" }, "Corpora"), " / ", name),
    h(
      "div.row.apart",
      h("h1", name),
      h(
        "div.row",
        h("a.button.primary", { href: `#/train?corpus=${corpus.id}` }, "Train a model"),
        h("button.button.danger", { onclick: deleteCorpus }, "Delete"),
      ),
    ),
    status,
    corpus.warnings.length > 0 &&
      warningBox(
        h("p.strong", "This corpus may be hard to learn"),
        corpus.warnings.map((text) => h("p", inlineCode(sentence(text)))),
      ),
    h(
      "section.card.stack",
      { "aria-label": "Statistics" },
      h(
        "dl.facts",
        fact("Characters", integer(corpus.characters)),
        fact("Distinct characters", integer(corpus.distinct_characters)),
        fact("Lines", integer(corpus.lines)),
        fact("Longest line", integer(corpus.longest_line)),
        fact("Size", byteSize(corpus.bytes)),
        fact("Uploaded", dateTime(corpus.created_at)),
      ),
      corpusKind(corpus, (changed) => replace(masks, maskHint(changed))),
    ),
    masks,
    h("section.stack.tight", h("h2", "First characters"), h("div.sample", corpus.sample)),
    models.length > 0 &&
      h(
        "section.stack.tight",
        h("h2", "Models trained on this corpus"),
        h(
          "ul.row",
          models.map((model) => h("li", h("a", { href: `#/models/${encodeURIComponent(model.id)}` }, model.id))),
        ),
      ),
    h("p.muted.small", "ID ", h("code", corpus.id), " · SHA-256 ", h("code", corpus.sha256)),
  );
}

function maskHint({ kind, suggested_masks: masks }) {
  if (kind !== "log" || !masks?.length) return null;
  const names = masks.map((mask) => mask.replaceAll("_", " ")).join(", ");
  return hintBox(
    h(
      "p",
      `This corpus is a log. Training masks the values that change from line to line: ${names}. ` +
        "You can change the masks before you train.",
    ),
  );
}
