/** Questions in front of everything else. The browser's own dialog keeps the focus inside and gives it back. */

import { freshId, h } from "../dom.js";

/**
 * Ask whether to do something that cannot be undone; the promise is of true or false.
 *
 * @param {{title: string, text: string, action: string}} question
 * @returns {Promise<boolean>}
 */
export async function confirmed({ title, text, action }) {
  return (await chosen({ title, text, actions: [["yes", action, "button danger"]] })) === "yes";
}

/**
 * Ask which of some things to do; the promise is of the action's value, or of '' for none.
 *
 * @param {{title: string, text: string, actions: [string, string, string][]}} question value, label, style
 * @returns {Promise<string>}
 */
export function chosen({ title, text, actions }) {
  return open(title, [h("p", {}, text)], [["", "No, go back", "button"], ...actions]);
}

/**
 * Ask for one line of text; the promise is of the text, or of null.
 *
 * @param {{title: string, text: string, label: string, action: string, value?: string, type?: string}} question
 * @returns {Promise<string | null>}
 */
export async function asked({ title, text, label, action, value = "", type = "text" }) {
  const input = h("input", { type, value, required: true, autocomplete: "off", spellcheck: "false", autofocus: true });
  const field = h("label", { class: "field" }, h("span", {}, label), input);
  const chosen = await open(
    title,
    [h("p", {}, text), field],
    [
      ["", "Not now", "button"],
      ["yes", action, "button primary"],
    ],
  );
  return chosen === "yes" && input.value ? input.value : null;
}

/** Show something until it is closed. */
export function shown(title, ...content) {
  return open(title, content, [["", "Close", "button"]]);
}

function open(title, content, buttons) {
  return new Promise((resolve) => {
    const id = freshId("dialog");
    const dialog = h(
      "dialog",
      { "aria-labelledby": id },
      h(
        "form",
        { method: "dialog", class: "stack" },
        h("h2", { id }, title),
        ...content,
        h(
          "div",
          { class: "row right" },
          buttons.map(([value, label, style]) =>
            h("button", { class: style, value, ...(value ? {} : { formnovalidate: true }) }, label),
          ),
        ),
      ),
    );
    dialog.addEventListener(
      "close",
      () => {
        dialog.remove();
        resolve(dialog.returnValue);
      },
      { once: true },
    );
    // In front of the page's content, whatever view comes and goes behind it.
    document.body.append(dialog);
    dialog.returnValue = "";
    dialog.showModal();
    // Enter in a field means the button that does something.
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.target instanceof HTMLInputElement) {
        event.preventDefault();
        if (event.target.form.reportValidity()) dialog.close(buttons.at(-1)[0]);
      }
    });
  });
}
