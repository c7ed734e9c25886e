/** Pasted lines, kept until the tab is closed, so that a reload shows the same lines. */

const KEY = "nextchar.anomalies.lines";
const MAX_CHARACTERS = 1_000_000; // browsers keep some megabytes per site

let draft = read();

/** The pasted lines, and whether they were scored. */
export function loadDraft() {
  return draft;
}

/** @param {{text: string, isScored: boolean}} value */
export function saveDraft(value) {
  draft = value;
  try {
    if (value.text.length <= MAX_CHARACTERS) sessionStorage.setItem(KEY, JSON.stringify(value));
    else sessionStorage.removeItem(KEY);
  } catch {
    // Storage is full or forbidden: the lines are kept until the page is reloaded.
  }
}

function read() {
  try {
    const stored = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
    if (typeof stored?.text === "string") return { text: stored.text, isScored: stored.isScored === true };
  } catch {
    // As if there were none.
  }
  return { text: "", isScored: false };
}
