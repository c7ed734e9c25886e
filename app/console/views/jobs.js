/** All training jobs, newest first; the list follows what happens. */

import { list } from "../api.js";
import { h, replace } from "../dom.js";
import { FINAL, jobItem } from "../components/job-card.js";
import { empty } from "../components/notice.js";

const POLL_MS = 2000;

/** @param {import('../router.js').Page} page */
export async function jobsView({ signal }) {
  const entries = h("div", { class: "list" });
  let jobs = await list("/v1/jobs", { signal });

  function draw() {
    replace(
      entries,
      jobs.length
        ? jobs.map((job) => jobItem(job, "h2"))
        : empty(
            "No training yet",
            "A job reads a text for as long as you say and ends as a model.",
            h("a", { class: "button primary", href: "#/train" }, "Train a model"),
          ),
    );
  }

  const timer = setInterval(async () => {
    if (document.hidden || jobs.every((job) => FINAL.includes(job.status))) return;
    const focused = entries.contains(document.activeElement) && document.activeElement?.getAttribute("href");
    jobs = await list("/v1/jobs", { signal }).catch(() => jobs); // the banner tells; the list waits
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
      h("h1", {}, "Training"),
      h("a", { class: "button primary", href: "#/train" }, "Train a model"),
    ),
    entries,
  );
}
