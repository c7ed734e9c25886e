import type { AttachOptions } from "./nextchar.js";

/**
 * Suggestions in a field: `<input ref={useNextchar({ model: "names", mode: "list" })} />`. It is attached while it is
 * mounted, and again when the model or another value changes. Make a `client` once, not in each render.
 */
export function useNextchar(
  options: AttachOptions,
): (field: HTMLTextAreaElement | HTMLInputElement | null) => void;
