// A word in the corner, for a while.

const SECONDS = { good: 4, bad: 9 };

/** Say `text`; `kind` is "good" or "bad". */
export function toast(text, kind = "good") {
  const place = document.getElementById("toasts");
  const said = document.createElement("p");
  said.className = `toast ${kind}`;
  said.textContent = text;
  place.append(said);
  while (place.children.length > 3) place.firstChild.remove();
  setTimeout(() => said.remove(), SECONDS[kind] * 1000);
}
