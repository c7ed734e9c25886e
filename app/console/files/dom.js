/** Functions that create elements. None takes markup, so no name or text can become an element. */

/**
 * @typedef {any} Child a node, a string or number, a list of children, or null or false for nothing
 * @typedef {Record<string, any>} Properties
 */

/**
 * Return an HTML element. `on…` adds a listener, true adds an empty attribute, false and null add none;
 * `value`, `checked`, `selected` and `indeterminate` are set as properties.
 *
 * @example h('a', {href: '#/models', class: 'button'}, 'Models')
 * @param {string} tag
 * @param {Properties} [properties]
 * @param {...Child} children
 * @returns {any} the element
 */
export function h(tag, properties = {}, ...children) {
  return initialize(document.createElement(tag), properties, children);
}

/**
 * Return an SVG element. Properties and children as for `h`.
 *
 * @param {string} tag
 * @param {Properties} [properties]
 * @param {...Child} children
 * @returns {any}
 */
export function svg(tag, properties = {}, ...children) {
  return initialize(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
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

function initialize(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (SET_AS_PROPERTIES.has(name)) element[name] = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...toNodes(children));
  // A select accepts a value only after its options are added.
  if (element instanceof HTMLSelectElement && "value" in properties) element.value = properties.value;
  return element;
}

function toNodes(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : String(child)));
}
