/** Functions that create elements. None takes markup, so no name or text can become an element. */

/**
 * @typedef {any} Child a node, a string or number, a list of children, or null or false for nothing
 * @typedef {Record<string, any>} Properties
 */

/**
 * Return an HTML element; its tag may name classes, and its properties may be left out. `on…` adds a listener, true adds
 * an empty attribute, false and null add none; `value`, `checked`, `selected` and `indeterminate` are set as properties.
 * A button submits no form unless its `type` says so.
 *
 * @example h("a.button.small", { href: "#/models" }, "Models"), h("p", "No model yet")
 * @param {string} tag
 * @param {...(Properties | Child)} content properties, then children
 * @returns {any} the element
 */
export function h(tag, ...content) {
  return element("http://www.w3.org/1999/xhtml", tag, content);
}

/**
 * Return an SVG element. Arguments as for `h`.
 *
 * @param {string} tag
 * @param {...(Properties | Child)} content
 * @returns {any}
 */
export function svg(tag, ...content) {
  return element("http://www.w3.org/2000/svg", tag, content);
}

/**
 * Replace everything in `element` by `children`.
 *
 * @param {Element} element
 * @param {...Child} children
 */
export function replace(element, ...children) {
  element.replaceChildren(...toNodes(children));
}

/**
 * Return `text` as children, with what is between backticks in `code` elements.
 *
 * @param {string | null | undefined} text
 * @returns {Child[]}
 */
export function inlineCode(text) {
  return (text ?? "").split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));
}

let lastId = 0;

/** Return an id that no other element of the page has. @param {string} prefix */
export function uniqueId(prefix) {
  lastId += 1;
  return `${prefix}-${lastId}`;
}

const SET_AS_PROPERTIES = new Set(["value", "checked", "selected", "indeterminate"]);

function element(namespace, tag, content) {
  const [name, ...classes] = tag.split(".");
  const [properties, ...children] = content[0]?.constructor === Object ? content : [{}, ...content];
  const made = document.createElementNS(namespace, name);
  if (classes.length) made.setAttribute("class", classes.join(" "));
  if (name === "button") made.setAttribute("type", "button");
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (SET_AS_PROPERTIES.has(name)) made[name] = value;
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, String(value));
  }
  made.append(...toNodes(children));
  // A select accepts a value only after its options are added.
  if (made instanceof HTMLSelectElement && "value" in properties) made.value = properties.value;
  return made;
}

function toNodes(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : String(child)));
}
