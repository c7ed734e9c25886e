/** What a model in the page remembers of its user: kept by the browser, in IndexedDB, and sent nowhere. */

const MAX_TEXT = 4000; // UTF-16 code units
const MIN_TEXT = 3000; // what is left of more: the beginning changes seldom, so it is seldom read again
const MAX_LINES = 500;
const HALF_LIFE_MS = 30 * 24 * 3600 * 1000;
const FOLDED = new Intl.Collator(undefined, { usage: "search", sensitivity: "base" });
const STORE = "remembered";

export class Memory {
  text = ""; // lines
  #accepted = {}; // by line: [how often, counted at this time]
  #name;
  #database; // null: the browser keeps nothing, as in Node.js

  static async open(name) {
    const memory = new Memory();
    memory.#name = name;
    memory.#database = await openDatabase().catch(() => null);
    await memory.#change((kept) => kept);
    return memory;
  }

  add(lines) {
    return this.#change(({ text, accepted }) => ({ text: limited(`${text}${lines.replace(/\n?$/, "\n")}`), accepted }));
  }

  count(line) {
    return this.#change(({ text, accepted }) => {
      const now = Date.now();
      const counted = { ...accepted, [line]: [1 + left(accepted[line], now), now] };
      const most = Object.entries(counted).sort(([, a], [, b]) => left(b, now) - left(a, now)).slice(0, MAX_LINES);
      return { text, accepted: Object.fromEntries(most) };
    });
  }

  forget() {
    return this.#change(() => ({ text: "", accepted: {} }));
  }

  // Suggestions with those that were accepted first, the more often the earlier.
  rank(prefix, suggestions, { limit = 10, exclude = [] } = {}) {
    const now = Date.now(), typed = prefix.trim();
    const begins = (line) => !FOLDED.compare(line.slice(0, typed.length), typed) && !exclude.includes(line);
    const counts = new Map(Object.entries(this.#accepted).filter(([line]) => begins(line)).map(([line, one]) => [line, left(one, now)]));
    const known = new Set(suggestions.map(({ text }) => text));
    const more = [...counts.keys()].filter((line) => !known.has(line)).map((text) => (
      { text, probability: 0, count: 0, exists: true, replaced: null }));
    const accepted = ({ text }) => counts.get(text) ?? 0;
    const ranked = [...suggestions, ...more].sort((a, b) => accepted(b) - accepted(a));
    return ranked.slice(0, limit).map((one) => ({ ...one, count: one.count + accepted(one) }));
  }

  // What other pages of the origin have kept meanwhile is changed, too.
  async #change(update) {
    const own = { text: this.text, accepted: this.#accepted };
    const kept = await this.#stored(update).catch(() => update(own)); // no room: it lasts as long as the page
    [this.text, this.#accepted] = [kept.text, kept.accepted];
  }

  async #stored(update) {
    const transaction = this.#database.transaction(STORE, "readwrite");
    const store = transaction.objectStore(STORE);
    const kept = update((await done(store.get(this.#name))) ?? { text: "", accepted: {} });
    if (kept.text || Object.keys(kept.accepted).length) store.put(kept, this.#name);
    else store.delete(this.#name);
    await new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    return kept;
  }
}

// Also the tables that workers have kept.
export async function forgetAll() {
  const folder = await navigator.storage?.getDirectory?.().catch(() => null);
  await folder?.removeEntry("nextchar-tables", { recursive: true }).catch(() => {}); // there are none
  const database = await openDatabase();
  await done(database.transaction(STORE, "readwrite").objectStore(STORE).clear());
  database.close();
}

async function openDatabase() {
  const request = indexedDB.open("nextchar", 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  return done(request);
}

const done = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

// What is left of a count.
const left = (counted, now) => (counted ? counted[0] * 2 ** ((counted[1] - now) / HALF_LIFE_MS) : 0);

// The end of a text, from the beginning of a line.
function limited(text) {
  if (text.length <= MAX_TEXT) return text;
  const from = text.length - MIN_TEXT;
  const line = text.indexOf("\n", from - 1) + 1;
  return text.slice(line < text.length ? line : from);
}
