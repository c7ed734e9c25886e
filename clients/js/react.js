/** React: a hook by which a field gets suggestions. */

import { useEffect, useRef, useState } from "react";
import { attach } from "./nextchar.js";

export function useNextchar(options) {
  const [field, setField] = useState(null);
  const latest = useRef(options);
  useEffect(() => void (latest.current = options));
  const { client, ...others } = options;
  const values = JSON.stringify(others); // without functions: new ones in each render do not attach the field again
  useEffect(() => (field ? attach(field, calling(latest)) : undefined), [field, client, values]);
  return setField;
}

// Options whose functions are those of the last render.
function calling(latest) {
  const isFunction = ([, value]) => typeof value === "function";
  const functions = Object.entries(latest.current).filter(isFunction);
  return { ...latest.current, ...Object.fromEntries(functions.map(([name]) => [name, (...what) => latest.current[name](...what)])) };
}
