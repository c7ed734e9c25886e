/** Walking over the characters of lines, by pointer or by arrow keys. */

/** Let pointer and arrow keys choose a character of a line. `onPlace` gets the line and the character's index. */
export function walkable(listed, rows, onPlace) {
  let here = null;

  function put(entry, place) {
    const row = rows.find((one) => one.place === Number(entry.dataset.place));
    if (!row?.characters.length) return;
    const bounded = Math.max(0, Math.min(place, row.characters.length - 1));
    here?.classList.remove("here");
    here = entry.querySelector(`[data-at="${bounded}"]`);
    here?.classList.add("here");
    for (const other of listed.querySelectorAll('[aria-selected="true"]')) other.setAttribute("aria-selected", "false");
    entry.setAttribute("aria-selected", "true");
    entry.dataset.at = String(bounded);
    onPlace(row, bounded);
  }

  function walk(event) {
    const entry = event.target.closest(".log-line");
    if (!entry) return;
    const place = Number(entry.dataset.at ?? -1);
    const sideways = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: Infinity }[event.key];
    const other = { ArrowDown: entry.nextElementSibling, ArrowUp: entry.previousElementSibling }[event.key];
    if (sideways !== undefined) {
      event.preventDefault();
      put(entry, sideways);
    } else if (other) {
      event.preventDefault();
      entry.tabIndex = -1;
      other.tabIndex = 0;
      other.focus();
      put(other, Number(other.dataset.at ?? Math.max(0, place)));
    }
  }

  listed.addEventListener("keydown", walk);
  listed.addEventListener("pointerover", (event) => {
    const span = event.target.closest("[data-at]:not(.log-line)");
    if (span) put(span.closest(".log-line"), Number(span.dataset.at));
  });
}
