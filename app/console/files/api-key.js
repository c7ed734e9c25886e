/** The API key of this tab: kept in `sessionStorage`, and requested once however many calls need it. */

const STORAGE_KEY = "nextchar.key";

/** @type {((wasRejected: boolean) => Promise<string | null>) | null} */
let askForKey = null;
/** @type {Promise<string | null> | null} */
let pendingKey = null;

/**
 * Set the function that asks for a key when the service responds with 401.
 *
 * @param {(wasRejected: boolean) => Promise<string | null>} ask `wasRejected` says that the current key was rejected
 */
export function onKeyRequired(ask) {
  askForKey = ask;
}

/** @returns {string | null} */
export function apiKey() {
  return sessionStorage.getItem(STORAGE_KEY);
}

/** Store a key for this tab; null removes it. @param {string | null} key */
export function setApiKey(key) {
  if (key) sessionStorage.setItem(STORAGE_KEY, key);
  else sessionStorage.removeItem(STORAGE_KEY);
}

/** Return the headers that carry the key, if there is one. @returns {Record<string, string>} */
export function keyHeaders() {
  const key = apiKey();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Ask for a key and store it; return false when none is entered. Concurrent calls share one question. */
export async function requestKey() {
  if (!askForKey) return false;
  pendingKey ??= askForKey(apiKey() !== null).finally(() => {
    pendingKey = null;
  });
  const key = await pendingKey;
  if (key) setApiKey(key);
  return Boolean(key);
}
