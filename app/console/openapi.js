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

/** Whether the service has an operation. @example await hasOperation('post', '/v1/models/{model}/score') */
export async function hasOperation(method, path) {
  return Boolean((await openapi()).paths[path]?.[method]);
}
