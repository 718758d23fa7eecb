// Mails that are chosen, to do something with all of them: x, or a click; with Shift all from the last one to here.

import { whenShown } from "./fragment.js";

const form = document.getElementById("several");
const boxes = () => [...document.querySelectorAll('input[name="ids"]')];
let last = null;

function tell() {
  const all = boxes();
  const chosen = all.filter((box) => box.checked).length;
  const text = chosen ? `${chosen} chosen` : "";
  const place = form.querySelector(".count");
  if (place.textContent !== text) place.textContent = text;
  form.querySelector('[data-choose="all"]').hidden = !chosen || chosen === all.length;
}

function choose(these, checked) {
  for (const box of these) box.checked = checked;
  tell();
}

if (form) {
  form.querySelector('[data-choose="none"]').hidden = false;
  document.addEventListener("click", (event) => {
    const box = event.target.closest?.('input[name="ids"]');
    if (box) {
      const all = boxes();
      const [from, to] = [all.indexOf(last), all.indexOf(box)].sort((a, b) => a - b);
      if (event.shiftKey && from >= 0) choose(all.slice(from, to + 1), box.checked);
      last = box;
      tell();
    }
    const button = event.target.closest?.("button[data-choose]");
    if (button) choose(boxes(), button.dataset.choose === "all");
  });
  form.addEventListener("postroom:done", () => choose(boxes(), false));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.target.closest?.("input:not([name=ids]), dialog")) choose(boxes(), false);
  });
  whenShown(tell);
}
