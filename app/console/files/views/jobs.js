/** All training jobs, newest first, updated while any of them runs. */

import { listAll } from "../api.js";
import { FINAL_STATUSES, jobCard } from "../components/job-card.js";
import { emptyState } from "../components/notice.js";
import { h, replace } from "../dom.js";

const POLL_MS = 2000;

/** @param {import('../router.js').Page} page */
export async function jobsView({ signal }) {
  const entries = h("div", { class: "list" });
  let jobs = await listAll("/v1/jobs", { signal });

  /** @type {Map<string, ReturnType<typeof jobCard>>} */ let cards = new Map();

  function draw() {
    const shown = [...cards.keys()].join();
    cards = new Map(jobs.map((job) => [job.id, cards.get(job.id) ?? jobCard(job, "h2")]));
    for (const job of jobs) cards.get(job.id)?.update(job);
    if (jobs.length && shown === [...cards.keys()].join()) return;
    replace(
      entries,
      jobs.length
        ? [...cards.values()].map(({ node }) => node)
        : emptyState(
            "No job yet",
            "A job trains a model on a corpus.",
            h("a", { class: "button primary", href: "#/train" }, "Train a model"),
          ),
    );
  }

  const timer = setInterval(async () => {
    if (document.hidden || jobs.every((job) => FINAL_STATUSES.includes(job.status))) return;
    const focused = entries.contains(document.activeElement) && document.activeElement?.getAttribute("href");
    jobs = await listAll("/v1/jobs", { signal }).catch(() => jobs); // the banner shows that the service is away
    if (signal.aborted) return;
    draw();
    if (focused) entries.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  }, POLL_MS);
  signal.addEventListener("abort", () => clearInterval(timer));

  draw();
  return h(
    "div",
    { class: "view" },
    h(
      "div",
      { class: "row apart" },
      h("h1", {}, "Jobs"),
      h("a", { class: "button primary", href: "#/train" }, "Train a model"),
    ),
    entries,
  );
}
