/** Pointing at the characters of listed lines, by pointer or by arrow keys. */

/**
 * Call `onSelect(line, index)` whenever the user points at another character.
 *
 * @param {HTMLElement} list its entries are `.log-line` with the line's number in `data-number`
 * @param {any[]} lines
 * @param {(line: any, index: number) => void} onSelect
 */
export function enableLineNavigation(list, lines, onSelect) {
  /** @type {Element | null} */ let selected = null;

  function selectCharacter(entry, requestedIndex) {
    const line = lines.find((one) => one.number === Number(entry.dataset.number));
    if (!line?.characters.length) return;
    const index = Math.max(0, Math.min(requestedIndex, line.characters.length - 1));
    selected?.classList.remove("selected");
    selected = entry.querySelector(`[data-index="${index}"]`);
    selected?.classList.add("selected");
    for (const other of list.querySelectorAll('[aria-selected="true"]')) other.setAttribute("aria-selected", "false");
    entry.setAttribute("aria-selected", "true");
    entry.dataset.selectedIndex = String(index);
    onSelect(line, index);
  }

  list.addEventListener("keydown", (event) => {
    const entry = event.target.closest(".log-line");
    if (!entry) return;
    const index = Number(entry.dataset.selectedIndex ?? -1);
    const newIndex = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: Infinity }[event.key];
    const newEntry = { ArrowDown: entry.nextElementSibling, ArrowUp: entry.previousElementSibling }[event.key];
    if (newIndex !== undefined) {
      event.preventDefault();
      selectCharacter(entry, newIndex);
    } else if (newEntry) {
      event.preventDefault();
      entry.tabIndex = -1;
      newEntry.tabIndex = 0;
      newEntry.focus();
      selectCharacter(newEntry, Number(newEntry.dataset.selectedIndex ?? Math.max(0, index)));
    }
  });
  list.addEventListener("pointerover", (event) => {
    const character = event.target.closest("[data-index]");
    if (character) selectCharacter(character.closest(".log-line"), Number(character.dataset.index));
  });
}
