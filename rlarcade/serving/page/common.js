// What all parts of the page need. Texts reach the page by textContent only, never as HTML.

/** Asks the server. An error has the server's own sentence. */
export async function ask(path, { method = "GET", body, headers = {} } = {}) {
  const answer = await fetch(path, {
    method,
    headers: body === undefined ? headers : { "Content-Type": "application/json", ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const told = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw new Error(told?.error ?? `The server answered ${answer.status}.`);
  return told;
}

/** Makes an element with a text or children. */
export function element(name, content = "", attributes = {}) {
  const made = document.createElement(name);
  made.append(...[content].flat());
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Makes an element of a drawing. */
export function drawn(name, attributes = {}, children = []) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** "space_invaders" as a title. */
export function titled(game) {
  return game.split("_").map((word) => word[0].toUpperCase() + word.slice(1)).join(" ");
}

/** A number with few digits and a true minus sign. */
export function figure(value, digits = 2) {
  if (Math.abs(value) >= 1e6) return value.toExponential(1);
  const text = value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
  return text.replace("-", "−");
}

/**
 * Makes an element like a fresh one, and touches only what differs. So whatever has the focus, is scrolled or is
 * just being pressed stays as it is.
 */
export function renew(old, fresh) {
  if (old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  old.onclick = fresh.onclick;
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  before.slice(after.length).forEach((child) => child.remove());
  after.forEach((child, place) => (place < before.length ? renew(before[place], child) : old.append(child)));
}
