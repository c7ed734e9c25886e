/** Modal dialogs. The browser's `<dialog>` keeps the focus inside and restores it. */

import { h, uniqueId } from "../dom.js";

/**
 * Ask for confirmation of an action that cannot be undone.
 *
 * @param {{title: string, text: string, action: string}} question
 * @returns {Promise<boolean>}
 */
export async function confirmAction({ title, text, action }) {
  return (await chooseAction({ title, text, actions: [["confirm", action, "button danger"]] })) === "confirm";
}

/**
 * Ask which action to take. Resolves to the value of an action, or to "" if the dialog is dismissed.
 *
 * @param {{title: string, text: string, content?: Node, actions: [string, string, string][]}} question each action is
 *   [value, label, CSS class]
 * @returns {Promise<string>}
 */
export function chooseAction({ title, text, content, actions }) {
  return openDialog(title, [h("p", text), ...(content ? [content] : [])], [["", "Go back", "button"], ...actions]);
}

/**
 * Ask for one line of text. Resolves to the text, or to null if the dialog is dismissed.
 *
 * @param {{title: string, text: string, label: string, action: string, value?: string, type?: string}} question
 * @returns {Promise<string | null>}
 */
export async function askForText({ title, text, label, action, value = "", type = "text" }) {
  const input = h("input", { type, value, required: true, autocomplete: "off", spellcheck: "false", autofocus: true });
  const field = h("label.field", h("span", label), input);
  const choice = await openDialog(
    title,
    [h("p", text), field],
    [
      ["", "Cancel", "button"],
      ["confirm", action, "button primary"],
    ],
  );
  return choice === "confirm" && input.value ? input.value : null;
}

/** Show content with a button that closes it. */
export function showDialog(title, ...content) {
  return openDialog(title, content, [["", "Close", "button"]]);
}

function openDialog(title, content, buttons) {
  return new Promise((resolve) => {
    const id = uniqueId("dialog");
    const dialog = h(
      "dialog",
      { "aria-labelledby": id },
      h(
        "form.stack",
        { method: "dialog" },
        h("h2", { id }, title),
        ...content,
        h(
          "div.row.right",
          buttons.map(([value, label, style]) =>
            h("button", { type: "submit", class: style, value, formnovalidate: !value }, label),
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
    // In the body, so that it stays when the view behind it changes.
    document.body.append(dialog);
    dialog.returnValue = "";
    dialog.showModal();
    // Enter in a field presses the last button, which is the main action.
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.target instanceof HTMLInputElement) {
        event.preventDefault();
        if (event.target.form.reportValidity()) dialog.close(buttons.at(-1)[0]);
      }
    });
  });
}
