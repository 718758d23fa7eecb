// Parts that change without an event: [data-again="seconds"] looks again while somebody looks at it.

for (const element of document.querySelectorAll("[data-again]")) {
  setInterval(() => {
    if (!document.hidden && !element.contains(document.activeElement)) document.dispatchEvent(new CustomEvent("postroom:refresh", { detail: element }));
  }, Number(element.dataset.again) * 1000);
}
