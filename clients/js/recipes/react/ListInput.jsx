import { useNextchar } from "nextchar/react";

/** An input with a list of suggestions. `suggestions` are options of `attach`, such as `{ min: 2, typos: 1 }`. */
export function ListInput({ model, client, suggestions, ...props }) {
  return <input ref={useNextchar({ model, client, mode: "list", ...suggestions })} {...props} />;
}
