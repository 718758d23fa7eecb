// What waits ([data-pending]) is looked at again until it has ended: no event tells when it does.

const EVERY_MS = 1000;

setInterval(() => {
  if (document.hidden) return;
  for (const part of document.querySelectorAll("[data-live]")) {
    if (part.querySelector("[data-pending]")) document.dispatchEvent(new CustomEvent("postroom:refresh", { detail: part }));
  }
}, EVERY_MS);
