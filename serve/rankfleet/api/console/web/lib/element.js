// Makes elements. Children that are not elements become text, never HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Attributes: `true` is an empty one, null and false leave it out, functions listen (`onclick`). */
export const h = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);

/** An SVG element, with attributes as in `h`. */
export const svg = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}
