// Shortcuts: every link, button and field with data-key="n" or data-key="g m" (two keys, one after the other); and in
// lists ([data-rows]) j and k, Enter and x.

const WAIT_MS = 1500; // for the second key
let first = "";
let timer = 0;

const isTyping = (element) => element.closest?.("input:not([type=checkbox]), textarea, select, [contenteditable]") != null;
const rows = () => [...document.querySelectorAll("[data-rows] > *")];

export function start() {
  document.addEventListener("keydown", press);
  const sheet = document.getElementById("shortcuts");
  for (const button of document.querySelectorAll("button[data-opens]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      if (sheet) fill(sheet);
      document.getElementById(button.dataset.opens).showModal();
    });
  }
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.key === "Escape" && isTyping(event.target)) return event.target.blur();
  if (isTyping(event.target) || document.querySelector("dialog[open]")) return;
  const wanted = first ? `${first} ${event.key}` : event.key;
  clearTimeout(timer);
  first = "";
  if ((wanted === "j" || wanted === "k") && rows().length) return step(event, wanted === "j" ? 1 : -1);
  if (wanted === "x" && choose(event)) return;
  const target = document.querySelector(`[data-key="${CSS.escape(wanted)}"]`);
  if (target) {
    event.preventDefault();
    act(target);
  } else if (document.querySelector(`[data-key^="${CSS.escape(event.key)} "]`)) {
    first = event.key;
    timer = setTimeout(() => (first = ""), WAIT_MS);
  }
}

function act(target) {
  if (target.matches("input, textarea, select")) {
    target.focus();
    target.select?.();
  } else target.click();
}

function step(event, by) {
  const all = rows();
  event.preventDefault();
  const at = all.findIndex((row) => row.contains(document.activeElement));
  const next = all[Math.min(Math.max(at + by, 0), all.length - 1)];
  const target = next.matches("a, button") ? next : next.querySelector("a, button");
  target?.focus();
  next.scrollIntoView({ block: "nearest" });
}

/** The row that has the focus, or no longer. With Shift pressed "X" would come: ranges are the mouse's. */
function choose(event) {
  const box = rows().find((row) => row.contains(document.activeElement))?.querySelector('input[name="ids"]');
  if (!box) return false;
  event.preventDefault();
  box.click();
  return true;
}

function fill(sheet) {
  const found = new Map([["j", "Next row"], ["k", "Row before"], ["Esc", "Out of a field"]]);
  if (document.getElementById("several")) found.set("x", "Choose the row, or no longer");
  for (const element of document.querySelectorAll("[data-key]")) {
    const says = element.dataset.keySays ?? element.textContent.trim() ?? element.ariaLabel;
    if (!found.has(element.dataset.key)) found.set(element.dataset.key, says);
  }
  sheet.replaceChildren(
    ...[...found].flatMap(([key, says]) => {
      const term = document.createElement("dt");
      for (const part of key.split(" ")) {
        const cap = document.createElement("kbd");
        cap.textContent = part;
        term.append(cap, " ");
      }
      const meaning = document.createElement("dd");
      meaning.textContent = says;
      return [term, meaning];
    }),
  );
}
