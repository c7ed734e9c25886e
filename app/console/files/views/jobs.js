/** All training jobs, newest first, updated while any of them runs. */

import { apiPath, listAll, post, repeat } from "../api.js";
import { dataTable, numberColumn, timeColumn } from "../components/data-table.js";
import { FINAL_STATUSES, statusBadge } from "../components/job-card.js";
import { attemptIn, emptyState } from "../components/notice.js";
import { askHowToCancel } from "../components/job-actions.js";
import { h } from "../dom.js";
import { bits, corpusName, duration } from "../format.js";

const POLL_MS = 2000;

/** @param {import('../router.js').Page} page */
export async function jobsView({ signal }) {
  const [jobs, models, corpora] = await Promise.all([
    listAll("/v1/jobs", { signal }),
    listAll("/v1/models", { signal }),
    listAll("/v1/corpora", { signal }).catch(() => []), // a key may not see them
  ]);
  const modelBits = new Map(models.map((model) => [model.id, model.bits_per_character]));
  const corpusNames = new Map(corpora.map((one) => [one.id, corpusName(one)]));
  const status = h("div");
  const attempt = attemptIn(status, signal);
  let shown = jobs;

  /** The figure of a job's model; while there is none, that of the network at its latest evaluation. */
  const bitsOf = (job) => modelBits.get(job.model) ?? job.progress?.validation_bits_per_character ?? null;
  const table = dataTable({
    noun: "job",
    key: (job) => job.id,
    text: (job) => `${job.name} ${job.id} ${job.status} ${job.model ?? ""} ${corpusNames.get(job.corpus) ?? ""}`,
    sort: ["Created", true],
    columns: [
      {
        label: "Model",
        isTitle: true,
        value: (job) => job.name,
        cell: (job) => h("a", { href: `#/jobs/${job.id}` }, job.name),
      },
      { label: "Status", value: (job) => job.status, cell: statusCell },
      { label: "Kind", value: (job) => job.kind ?? "" },
      {
        label: "Corpus",
        value: (job) => corpusNames.get(job.corpus) ?? job.corpus,
        cell: (job) =>
          h("a", { href: `#/corpora/${job.corpus}` }, corpusNames.get(job.corpus) ?? job.corpus.slice(0, 14)),
      },
      { label: "Preset", value: presetOf },
      { label: "Bits", isNumber: true, value: bitsOf, cell: (job) => bits(bitsOf(job)) },
      numberColumn("Trained for", (job) => job.progress?.elapsed_seconds, duration),
      timeColumn("Created", (job) => job.created_at),
    ],
    actions: [{ label: "Cancel", isDanger: true, run: (chosen) => attempt(() => cancel(chosen)) }],
    empty: emptyState(
      "No job yet",
      "A job trains a model on a corpus.",
      h("a.button.primary", { href: "#/train" }, "Train a model"),
    ),
    signal,
  });

  async function cancel(chosen) {
    const open = chosen.filter((job) => !FINAL_STATUSES.includes(job.status));
    if (!open.length) throw new Error("The selected jobs have ended.");
    const body = await askHowToCancel({ ...open[0], name: open.map(({ name }) => name).join(", ") });
    if (!body) return;
    for (const job of open) await post(apiPath("/v1/jobs", job.id, "cancel"), body);
    table.clearSelection();
    await poll();
  }

  async function poll() {
    shown = await listAll("/v1/jobs", { signal }).catch(() => shown); // the banner shows that the service is away
    if (!signal.aborted) table.update(shown);
  }

  repeat(() => shown.some((job) => !FINAL_STATUSES.includes(job.status)) && poll(), POLL_MS, signal);
  table.update(jobs);
  return h(
    "div.view",
    h("div.row.apart", h("h1", "Jobs"), h("a.button.primary", { href: "#/train" }, "Train a model")),
    status,
    table.node,
  );
}

function presetOf(job) {
  return job.chosen_preset ?? job.preset ?? "";
}

/** The status, and of a running job its progress, of a queued one its position. */
function statusCell(job) {
  const { step, steps, phase, seconds_left: left } = job.progress ?? {};
  return h(
    "div.row",
    statusBadge(job),
    job.status === "running" &&
      h(
        "span.small.muted.number.nowrap",
        steps > 0 &&
          h("progress", { max: steps, ...(phase ? {} : { value: step }), "aria-label": `Progress of ${job.name}` }),
        phase ?? (Number.isFinite(left) ? `${duration(left)} left` : ""),
      ),
    job.status === "queued" && job.queue_position && h("span.small.muted", `position ${job.queue_position}`),
    job.error && h("span.small.muted", { title: job.error.message }, job.error.code.replaceAll("_", " ")),
  );
}
