/** Templates of log lines: a line with the values that vary replaced by `*`. A simple pattern, for grouping only. */

const MAX_TEMPLATES = 20_000;
const MAX_CHARACTERS = 300;
const OTHER = "(other lines)";

const VARIABLE = new RegExp(
  [
    // Quoted values. A request in an access log is not one value.
    '"(?!(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) )[^"]*"',
    "'[^']*'",
    // Names of months and days in timestamps.
    "\\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec|Mon|Tue|Wed|Thu|Fri|Sat|Sun)\\b(?=[ /,])",
    // Hexadecimal numbers and hashes, then all other digits with the separators between them.
    "\\b0x[0-9a-fA-F]+\\b",
    "\\b(?=[0-9a-fA-F-]*\\d)[0-9a-fA-F]{6,}(?:-[0-9a-fA-F]+)*\\b",
    "\\d+(?:[.,:/-]\\d+)*(?:Z\\b)?",
  ].join("|"),
  "g",
);
const ADJACENT = /\*(?:[\s:/,.T+-]{0,3}\*)+/g;

/** Return the template of a line. @example templateOf("Jan 2 03:04:05 sshd[17]: port 99") // '* sshd[*]: port *' */
export function templateOf(text) {
  return text.slice(0, MAX_CHARACTERS).replace(VARIABLE, "*").replace(ADJACENT, "*");
}

/** Numbers for templates, from 0. At most MAX_TEMPLATES are kept; lines of further ones share a last number. */
export class Templates {
  /** @type {string[]} */ texts = [];
  /** @type {Map<string, number>} */ #numbers = new Map();

  /** Return the number of a line's template. @param {string} text */
  numberOf(text) {
    const template = templateOf(text);
    let number = this.#numbers.get(template);
    if (number !== undefined) return number;
    if (this.texts.length >= MAX_TEMPLATES) {
      if (this.texts.length === MAX_TEMPLATES) this.texts.push(OTHER);
      return MAX_TEMPLATES;
    }
    number = this.texts.push(template) - 1;
    this.#numbers.set(template, number);
    return number;
  }
}
