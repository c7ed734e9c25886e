/** The service's OpenAPI document, requested once. */

import { get } from "./api.js";

/** @type {Promise<any> | null} */
let pending = null;

/** @returns {Promise<any>} */
export function openapi() {
  pending ??= get("/openapi.json").catch((error) => {
    pending = null;
    throw error;
  });
  return pending;
}
