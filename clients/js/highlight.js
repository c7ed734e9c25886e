/** Marks the anomalous characters of an element's text. */

import { Nextchar, NextcharError } from "./client.js";
import { emit, emitError } from "./events.js";
import { Mirror, create } from "./mirror.js";

const NAME = "nextchar-anomaly";
const MIN_BITS = 7;
const DEBOUNCE_MS = 200;

export function highlight(element, { model, client, bits = MIN_BITS, live = false, ...options }) {
  const service = client ?? new Nextchar(options);
  const isField = "value" in element;
  const mirror = isField && new Mirror(element);
  const listening = new AbortController();
  let inFlight = new AbortController();
  let timer;
  let unmark = () => {};

  const textOf = () => (isField ? element.value : element.textContent);
  const fail = (error) => error instanceof NextcharError && emitError(element, error);

  async function refresh() {
    inFlight.abort();
    inFlight = new AbortController();
    const text = textOf();
    const lines = text.split("\n");
    const options = { detail: "character", signal: inFlight.signal };
    const scores = text.trim() ? (await service.score(model, lines, options)).lines : [];
    const spans = [];
    let lineStart = 0;
    scores.forEach((score) => {
      const event = lines.splice(0, score.lines ?? 1).join("\n");
      let offsets = characterOffsets(event);
      if (offsets.length <= score.characters) offsets = characterOffsets(event, new TextEncoder());
      for (const span of anomalousSpans(score, bits)) {
        const [start, end] = [offsets[span.start], offsets[span.end]];
        spans.push({ start: lineStart + start, end: lineStart + end, text: event.slice(start, end) });
      }
      lineStart += event.length + 1;
    });
    if (text !== textOf()) return spans; // it has changed meanwhile
    clear();
    if (mirror) {
      mirror.fit();
      mirror.box.style.webkitTextFillColor = "transparent"; // except where it is marked
      mirror.text.textContent = text + "\u200b";
    }
    unmark = mark(mirror ? mirror.text : element, spans);
    observer.takeRecords();
    emit(element, "highlight", { spans });
    return spans;
  }

  function clear() {
    unmark();
    unmark = () => {};
    observer.takeRecords();
    mirror && mirror.box.remove();
  }

  function changed() {
    clear();
    clearTimeout(timer);
    if (live) timer = setTimeout(() => refresh().catch(fail), DEBOUNCE_MS);
  }

  const observer = new MutationObserver(changed);
  const sizes = new ResizeObserver(() => mirror.box.isConnected && mirror.fit());
  if (isField) {
    element.addEventListener("input", changed, { signal: listening.signal });
    element.addEventListener("scroll", () => mirror.scroll(), { signal: listening.signal });
    sizes.observe(element);
  } else if (live) observer.observe(element, { childList: true, characterData: true, subtree: true });
  const ready = refresh();
  ready.catch(fail);
  return {
    ready,
    refresh,
    clear() {
      listening.abort();
      inFlight.abort();
      clearTimeout(timer);
      observer.disconnect();
      sizes.disconnect();
      clear();
    },
  };
}

// In characters of the line after NFC: the model's own spans if it is calibrated, else those of `minBits` and more.
function anomalousSpans(score, minBits) {
  if (score.spans) return score.anomalous === false ? [] : score.spans;
  const spans = [];
  (score.bits ?? []).forEach((bits, i) => {
    if (bits < minBits) return;
    const last = spans.at(-1);
    if (last && last.end >= i - 1) last.end = i + 1;
    else spans.push({ start: i, end: i + 1 });
  });
  return spans;
}

// Where each character after NFC (with an encoder, each byte) starts in UTF-16 code units; last, the line's length.
function characterOffsets(line, encoder) {
  const offsets = [];
  let at = 0;
  for (const { segment } of new Intl.Segmenter(undefined, { granularity: "grapheme" }).segment(line)) {
    const characters = [...(encoder ? segment : segment.normalize("NFC"))];
    const isSame = segment === characters.join("");
    let inside = 0;
    for (const character of characters) {
      for (const _ of encoder?.encode(character) ?? [0]) offsets.push(at + (isSame ? inside : 0));
      inside += character.length;
    }
    at += segment.length;
  }
  return [...offsets, at];
}

// Returns a function that removes the marks.
function mark(root, spans) {
  const ranges = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  let next = 0;
  for (let at = 0, node; (node = walker.nextNode()); at += node.data.length) {
    for (let i = next; i < spans.length && spans[i].start < at + node.data.length; i++) {
      const range = document.createRange();
      range.setStart(node, Math.max(0, spans[i].start - at));
      range.setEnd(node, Math.min(node.data.length, spans[i].end - at));
      ranges.push(range);
      if (spans[i].end <= at + node.data.length) next = i + 1;
    }
  }
  if (CSS.highlights) {
    const registered = registeredHighlight();
    ranges.forEach((range) => registered.add(range));
    return () => ranges.forEach((range) => registered.delete(range));
  }
  // From the end, since each mark splits its text node.
  const marks = ranges.reverse().map((range) => {
    const element = create("mark", { webkitTextFillColor: "currentcolor" }, { class: NAME });
    range.surroundContents(element);
    return element;
  });
  return () => {
    for (const element of marks) {
      const parent = element.parentNode;
      element.replaceWith(...element.childNodes);
      parent?.normalize();
    }
  };
}

function registeredHighlight() {
  if (!CSS.highlights.has(NAME)) {
    CSS.highlights.set(NAME, new Highlight());
    // In a layer, so that the page's own ::highlight(nextchar-anomaly) takes precedence.
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(`@layer { ::highlight(${NAME}) { background-color: rgb(255 120 60 / 0.35);
      -webkit-text-fill-color: currentcolor; } }`);
    document.adoptedStyleSheets.push(sheet);
  }
  return CSS.highlights.get(NAME);
}
