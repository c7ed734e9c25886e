/** Notifications to the page and its developer: `nextchar:` events, and warnings in the browser's console. */

const warnings = new Set();

export function emit(element, name, detail) {
  element.dispatchEvent(new CustomEvent(`nextchar:${name}`, { bubbles: true, composed: true, detail }));
}

// Logs, once, what a retry cannot fix.
export function emitError(element, error, pause) {
  const { code, status, message } = error;
  const isTemporary = status ? status === 429 || status >= 500 : code === "unreachable" || code === "timeout";
  if (!isTemporary && !warnings.has(message)) console.warn(`nextchar: ${message}`);
  warnings.add(message);
  emit(element, "error", { error, pause });
}
