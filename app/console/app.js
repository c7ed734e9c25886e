/** The entry of the console: its routes, and what surrounds the views. */

import { onKeyRequired } from "./api-key.js";
import { askForText } from "./components/dialog.js";
import { enableConnectionBanner } from "./connection-banner.js";
import { startRouter } from "./router.js";
import { enableShortcuts } from "./shortcuts.js";
import { themeButton } from "./theme.js";
import { alertsView } from "./views/alerts.js";
import { anomaliesView } from "./views/anomalies.js";
import { compareView } from "./views/compare.js";
import { corporaView } from "./views/corpora.js";
import { corpusView } from "./views/corpus.js";
import { homeView } from "./views/home.js";
import { jobView } from "./views/job.js";
import { jobsView } from "./views/jobs.js";
import { liveView } from "./views/live.js";
import { modelView } from "./views/model.js";
import { modelsView } from "./views/models.js";
import { notFoundView } from "./views/not-found.js";
import { playgroundView } from "./views/playground.js";
import { trainView } from "./views/train.js";

/** @type {import('./router.js').Route[]} */
const ROUTES = [
  ["/", "Home", homeView],
  ["/corpora", "Corpora", corporaView],
  ["/corpora/:corpus", ({ corpus }) => `Corpus ${corpus}`, corpusView],
  ["/train", "Train a model", trainView],
  ["/jobs", "Jobs", jobsView],
  ["/jobs/:job", ({ job }) => `Job ${job}`, jobView],
  ["/models", "Models", modelsView],
  ["/models/:model", ({ model }) => model, modelView],
  ["/compare", "Compare models", compareView],
  ["/playground", "Playground", playgroundView],
  ["/anomalies", "Anomalies", anomaliesView],
  ["/alerts", "Alerts", alertsView],
  ["/live", "Live lines", liveView],
  ["/.*", "Page not found", notFoundView],
];

/** Views without a navigation link, and the link that is highlighted for them. */
const PARENT_SECTIONS = { "#/train": "#/jobs", "#/compare": "#/models", "#/live": "#/alerts" };

const main = byId("main");
const showAgain = startRouter(main, ROUTES, highlightNavigation);

themeButton(byId("theme"));
enableShortcuts(byId("shortcuts"));
enableConnectionBanner(byId("banner"), () => {
  // Reload a view that failed to load; leave others alone, the user may be writing.
  if (main.querySelector(":scope > .view > .box.danger")) showAgain();
});
onKeyRequired((wasRejected) =>
  askForText({
    title: "API key required",
    text: wasRejected
      ? "The key of this tab is invalid or was revoked. Enter another one."
      : "Ask the operator of this service for a key. It is kept until you close this tab.",
    label: "API key",
    action: "Use key",
    type: "password",
  }),
);

byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the link's hash is not a view
  (main.querySelector("h1") ?? main).focus();
});

// A file dropped outside a drop zone must not replace the page.
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());

function highlightNavigation(path) {
  const section = `#/${path.split("/")[1]}`;
  const current = PARENT_SECTIONS[section] ?? section;
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.getAttribute("href") === current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** @param {string} id @returns {HTMLElement} */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}
