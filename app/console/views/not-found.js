/** An address that is no view's. */

import { h } from "../dom.js";
import { empty } from "../components/notice.js";

export async function notFoundView() {
  return h(
    "div",
    { class: "view" },
    h("h1", {}, "There is nothing here"),
    empty(
      "This address is no page of the console",
      "It may be mistyped, or from another version.",
      h("a", { class: "button primary", href: "#/" }, "To the start"),
    ),
  );
}
