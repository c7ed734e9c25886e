/** Elements made by calls. No call here takes markup, so no name or text can ever become any. */

/**
 * @typedef {any} Child a node, a text or number, a list of children, or null or false for nothing
 * @typedef {Record<string, any>} Properties
 */

/**
 * Return an HTML element. `on…` properties are listeners, true and false switch an attribute on and off,
 * null leaves it out, `value`, `checked`, `selected` and `indeterminate` are set as properties.
 *
 * @example h('a', {href: '#/models', class: 'button'}, 'Models')
 * @param {string} tag
 * @param {Properties} [properties]
 * @param {...Child} children
 * @returns {any} the element
 */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/**
 * Return an SVG element; as `h`.
 *
 * @param {string} tag
 * @param {Properties} [properties]
 * @param {...Child} children
 * @returns {any}
 */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

/**
 * Make `children` all that `element` holds.
 *
 * @param {Element} element
 * @param {...Child} children
 */
export function replace(element, ...children) {
  element.replaceChildren(...nodes(children));
}

/**
 * Return the sentences of `text` with what stands between backticks as code.
 *
 * @param {string | null | undefined} text
 * @returns {Child[]}
 */
export function prose(text) {
  return (text ?? "").split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));
}

let ids = 0;

/** Return an id that no other element has. @param {string} prefix */
export function freshId(prefix) {
  ids += 1;
  return `${prefix}-${ids}`;
}

const AS_PROPERTY = new Set(["value", "checked", "selected", "indeterminate"]);

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (AS_PROPERTY.has(name)) element[name] = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...nodes(children));
  // A select takes its value only once its options are there.
  if (element instanceof HTMLSelectElement && "value" in properties) element.value = properties.value;
  return element;
}

function nodes(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : String(child)));
}
