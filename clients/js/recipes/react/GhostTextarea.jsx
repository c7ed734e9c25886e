import { attach } from "nextchar";
import { useEffect, useRef } from "react";

/** A textarea with ghost text. `client` is a `Nextchar` that is made once, not in each render. */
export function GhostTextarea({ model, client, ...props }) {
  const field = useRef(null);
  useEffect(() => attach(field.current, { model, client }), [model, client]);
  return <textarea ref={field} {...props} />;
}
