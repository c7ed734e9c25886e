/** The view of an address that no route matches. */

import { emptyState } from "../components/notice.js";
import { h } from "../dom.js";

export async function notFoundView() {
  return h(
    "div.view",
    h("h1", "Page not found"),
    emptyState(
      "The console has no page at this address",
      "Check the address, or start from the home page.",
      h("a.button.primary", { href: "#/" }, "Home"),
    ),
  );
}
