/** The entry of the console: its routes, and what surrounds the views. */

import { onKeyRequired } from "./api-key.js";
import { askForText } from "./components/dialog.js";
import { enableConnectionBanner } from "./connection-banner.js";
import { enableCommandPalette } from "./components/command-palette.js";
import { lazyView } from "./lazy-view.js";
import { startRouter } from "./router.js";
import { enableShortcuts } from "./shortcuts.js";
import { themeButton } from "./theme.js";

/** @type {import('./router.js').Route[]} */
const ROUTES = [
  ["/", "Home", lazyView(async () => (await import("./views/home.js")).homeView)],
  ["/corpora", "Corpora", lazyView(async () => (await import("./views/corpora.js")).corporaView)],
  [
    "/corpora/:corpus",
    ({ corpus }) => `Corpus ${corpus}`,
    lazyView(async () => (await import("./views/corpus.js")).corpusView),
  ],
  ["/train", "Train a model", lazyView(async () => (await import("./views/train.js")).trainView)],
  ["/jobs", "Jobs", lazyView(async () => (await import("./views/jobs.js")).jobsView)],
  ["/jobs/:job", ({ job }) => `Job ${job}`, lazyView(async () => (await import("./views/job.js")).jobView)],
  ["/models", "Models", lazyView(async () => (await import("./views/models.js")).modelsView)],
  ["/models/:model", ({ model }) => model, lazyView(async () => (await import("./views/model.js")).modelView)],
  ["/compare", "Compare models", lazyView(async () => (await import("./views/compare.js")).compareView)],
  ["/playground", "Playground", lazyView(async () => (await import("./views/playground.js")).playgroundView)],
  ["/suggestions", "Suggestions", lazyView(async () => (await import("./views/suggestions.js")).suggestionsView)],
  ["/anomalies", "Anomalies", lazyView(async () => (await import("./views/anomalies.js")).anomaliesView)],
  ["/alerts", "Alerts", lazyView(async () => (await import("./views/alerts.js")).alertsView)],
  ["/live", "Live lines", lazyView(async () => (await import("./views/live.js")).liveView)],
  ["/keys", "API keys", lazyView(async () => (await import("./views/keys.js")).keysView)],
  ["/.*", "Page not found", lazyView(async () => (await import("./views/not-found.js")).notFoundView)],
];

/** Views without a navigation link, and the link that is highlighted for them. */
const PARENT_SECTIONS = { "#/train": "#/jobs", "#/compare": "#/models", "#/live": "#/alerts" };

const main = byId("main");
const showAgain = startRouter(main, ROUTES, highlightNavigation);

themeButton(byId("theme"));
enableShortcuts(byId("shortcuts"));
enableCommandPalette(byId("palette"));
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
    if (link.getAttribute("href") === current) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "center" });
    } else link.removeAttribute("aria-current");
  }
}

/** @param {string} id @returns {HTMLElement} */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}
