import { useNextchar } from "nextchar/react";

/** A textarea with ghost text. `client` is a `Nextchar` that is made once, not in each render. */
export function GhostTextarea({ model, client, ...props }) {
  return <textarea ref={useNextchar({ model, client })} {...props} />;
}
