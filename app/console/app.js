/** Where the console starts: its views, what is around them, and what is asked for on the way. */

import { onKeyWanted, pause } from "./api.js";
import { asked, shown } from "./components/dialog.js";
import { h, replace } from "./dom.js";
import { go, start } from "./router.js";
import { themeButton } from "./theme.js";
import { anomaliesView } from "./views/anomalies.js";
import { compareView } from "./views/compare.js";
import { corporaView } from "./views/corpora.js";
import { corpusView } from "./views/corpus.js";
import { homeView } from "./views/home.js";
import { jobView } from "./views/job.js";
import { jobsView } from "./views/jobs.js";
import { modelView } from "./views/model.js";
import { modelsView } from "./views/models.js";
import { notFoundView } from "./views/not-found.js";
import { playgroundView } from "./views/playground.js";
import { trainView } from "./views/train.js";

/** @type {import('./router.js').Route[]} */
const ROUTES = [
  ["/", "Start", homeView],
  ["/corpora", "Texts", corporaView],
  ["/corpora/:corpus", ({ corpus }) => `Text ${corpus}`, corpusView],
  ["/train", "Train", trainView],
  ["/jobs", "Training", jobsView],
  ["/jobs/:job", ({ job }) => `Job ${job}`, jobView],
  ["/models", "Models", modelsView],
  ["/models/:model", ({ model }) => model, modelView],
  ["/compare", "Compare models", compareView],
  ["/playground", "Playground", playgroundView],
  ["/anomalies", "Anomalies", anomaliesView],
  ["/.*", "Not found", notFoundView],
];

const SHORTCUTS = [
  ["s", "/", "Start"],
  ["t", "/corpora", "Texts"],
  ["j", "/jobs", "Training"],
  ["m", "/models", "Models"],
  ["p", "/playground", "Playground"],
  ["a", "/anomalies", "Anomalies"],
  ["n", "/train", "Train a new model"],
];

const main = /** @type {HTMLElement} */ (document.getElementById("main"));
const banner = /** @type {HTMLElement} */ (document.getElementById("banner"));

const showAgain = start(main, ROUTES, markNavigation);

themeButton(/** @type {HTMLElement} */ (document.getElementById("theme")));
document.getElementById("shortcuts")?.addEventListener("click", showShortcuts);
document.getElementById("skip")?.addEventListener("click", (event) => {
  event.preventDefault(); // its hash is not a view
  (main.querySelector("h1") ?? main).focus();
});

onKeyWanted((wasWrong) =>
  asked({
    title: "This service wants an API key",
    text: wasWrong
      ? "The key that this tab has is not, or no longer, one of the service’s. Give another."
      : "Whoever runs it can give you one. It is kept for this tab, until that is closed.",
    label: "API key",
    action: "Use it",
    type: "password",
  }),
);

/* The service goes away and comes back. */

let isGone = false;

window.addEventListener("nextchar:gone", async () => {
  if (isGone) return;
  isGone = true;
  replace(
    banner,
    h("p", { class: "banner" }, "The service does not answer. Nothing of your work here is lost; trying again…"),
  );
  while (isGone) {
    await pause(1500);
    const answer = await fetch("/healthz").catch(() => null);
    if (answer?.ok) back();
  }
});
window.addEventListener("nextchar:back", back);

function back() {
  if (!isGone) return;
  isGone = false;
  replace(banner);
  // A view that could not be shown is shown now; what is being written elsewhere stays.
  if (main.querySelector(":scope > .view > .box.danger")) showAgain();
}

/* A file that misses its place must not replace the page. */

for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());

/* Keys: g and a letter; ? lists them. */

let wasG = false;

window.addEventListener("keydown", (event) => {
  const writes = event.target instanceof Element && event.target.closest("input, textarea, select, [contenteditable]");
  if (writes || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const shortcut = wasG && SHORTCUTS.find(([key]) => key === event.key);
  wasG = event.key === "g";
  if (shortcut) {
    event.preventDefault();
    go(shortcut[1]);
  } else if (event.key === "?") {
    event.preventDefault();
    showShortcuts();
  }
});

function showShortcuts() {
  const key = (text) => h("kbd", {}, text);
  shown(
    "Keyboard shortcuts",
    h(
      "dl",
      { class: "keys" },
      SHORTCUTS.map(([letter, , label]) => [h("dt", {}, key("g"), " ", key(letter)), h("dd", {}, label)]),
      [
        ["?", "This list"],
        ["Tab", "Accept ghost text"],
        ["Ctrl →", "Accept a word of it"],
        ["Esc", "Dismiss it"],
        ["← →", "Read a chart, or walk along a line of the heat map"],
        ["↑ ↓", "The line before, or the next"],
      ].map(([keys, label]) => [
        h(
          "dt",
          {},
          keys.split(" ").map((one) => key(one)),
        ),
        h("dd", {}, label),
      ]),
    ),
  );
}

function markNavigation(path) {
  const section = `#/${path.split("/")[1]}`;
  const belongs = { "#/train": "#/jobs", "#/compare": "#/models" }[section] ?? section;
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.getAttribute("href") === belongs) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}
