// Fragments: parts of this page, fetched again from its own address and put in place of what is there.

const policy = window.trustedTypes
  ? window.trustedTypes.createPolicy("postroom", { createHTML: (text) => text })
  : { createHTML: (text) => text };

const listeners = [];
note(document); // before any script has changed a row

/** Call `listener(element)` with each element whose content was replaced; and now, with the whole page. */
export function whenShown(listener) {
  listeners.push(listener);
  listener(document.body);
}

/** The fragment `name` of the page at `url`, as text. Throws a Response that is not good. */
export async function fetched(name, url = location.href) {
  const answer = await fetch(url, { headers: { "X-Fragment": name }, cache: "no-store" });
  if (!answer.ok) throw answer;
  return answer.text();
}

/** Put the server's `html` into `element`. What has an `id` and is the same as before stays the very same node, so that
 * focus, selection and what has been scrolled or opened stay, too. New rows of what was there before are marked. */
export function swap(element, html) {
  if (element.fragmentText === html) return;
  const first = element.fragmentText === undefined;
  element.fragmentText = html;
  const wanted = new DOMParser().parseFromString(policy.createHTML(`<template>${html}</template>`), "text/html");
  const content = document.importNode(wanted.querySelector("template").content, true);
  note(content);
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const bodies = [element.querySelector("[data-rows]"), content.querySelector("[data-rows]")];
  if (bodies[0] && bodies[1] && bodies[0].tagName === bodies[1].tagName) {
    keepRows(bodies[0], bodies[1], !first || bodies[0].children.length > 0);
    bodies[1].replaceWith(bodies[0]);
  }
  element.replaceChildren(content);
  const again = focused?.isConnected ? focused : focused?.id && document.getElementById(focused.id);
  if (again && document.activeElement !== again) again.focus({ preventScroll: true });
  for (const listener of listeners) listener(element);
  element.dispatchEvent(new CustomEvent("postroom:shown"));
}

/** Remember each row as the server wrote it. */
function note(root) {
  for (const row of root.querySelectorAll("[data-rows] > *")) row.sourceText = row.outerHTML;
}

/** Make the children of `present` those of `wanted`. */
function keepRows(present, wanted, mark) {
  const known = new Map([...present.children].map((row) => [row.id, row]));
  const rows = [...wanted.children].map((row) => {
    const old = row.id ? known.get(row.id) : undefined;
    if (old && old.sourceText === row.sourceText) return old;
    if (!old && mark) row.classList.add("fresh");
    return row;
  });
  present.replaceChildren(...rows);
}
