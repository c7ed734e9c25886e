/** The service's own description, asked for once: what it can be asked for, with units and limits. */

import { get } from "./api.js";

let asked = null;

/** @returns {Promise<any>} */
export function openapi() {
  asked ??= get("/openapi.json").catch((error) => {
    asked = null;
    throw error;
  });
  return asked;
}

/** Return the named schema's properties, empty if there is no such schema. @param {string} schema */
export async function properties(schema) {
  return (await openapi()).components.schemas[schema]?.properties ?? {};
}

/** Whether the service has a call, as ('post', '/v1/models/{model}/score'). */
export async function has(method, path) {
  return Boolean((await openapi()).paths[path]?.[method]);
}
