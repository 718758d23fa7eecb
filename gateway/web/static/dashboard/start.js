// What every page has: live parts, times, copying, quiet forms, shortcuts. All of it is extra: pages read without.

import { fetched, swap, whenShown } from "./fragment.js";
import * as live from "./live.js";
import * as keys from "./keys.js";
import { toast } from "./toast.js";

// Live parts: [data-live="types"][data-fragment="name"]

const GATHER_MS = 80; // between two looks at a part that changes all the time
const parts = new Map();

class Part {
  constructor(element) {
    this.element = element;
    this.looking = false;
    this.again = false;
    this.lastAt = 0;
  }

  wants(event) {
    const { live: types, liveMailbox, liveEmail } = this.element.dataset;
    if (event === null) return true;
    if (types !== "*" && !types.split(" ").includes(event.type)) return false;
    if (liveMailbox && event.mailbox_id !== liveMailbox) return false;
    return !liveEmail || event.email_id === liveEmail;
  }

  async look() {
    if (this.looking) return void (this.again = true);
    this.looking = true;
    do {
      this.again = false;
      const pause = this.lastAt + GATHER_MS - performance.now();
      if (pause > 0) await new Promise((done) => setTimeout(done, pause));
      this.lastAt = performance.now();
      await this.fetch();
    } while (this.again && this.element.isConnected);
    this.looking = false;
  }

  async fetch() {
    const url = this.element.dataset.url ?? location.href;
    try {
      const html = await fetched(this.element.dataset.fragment, url);
      if (url === (this.element.dataset.url ?? location.href)) swap(this.element, html);
      else this.again = true;
    } catch (answer) {
      if (answer instanceof Response && (answer.status === 429 || answer.status === 503)) {
        const seconds = Number(answer.headers.get("Retry-After")) || 1;
        if (answer.status === 429) toast(`Too many requests for this key; looking again in ${seconds} s.`, "bad");
        await new Promise((done) => setTimeout(done, seconds * 1000));
        this.again = true;
      }
    }
  }
}

whenShown((root) => {
  for (const element of root.querySelectorAll("[data-live][data-fragment]")) {
    if (!parts.has(element)) parts.set(element, new Part(element));
  }
  for (const element of parts.keys()) if (!element.isConnected) parts.delete(element);
});
live.subscribe(["*"], (event) => {
  for (const part of parts.values()) if (part.wants(event)) part.look();
});

/** Look at all live parts again: at this one alone, where one is given. */
export function refresh(element) {
  for (const part of parts.values()) if (!element || part.element === element) part.look();
}
document.addEventListener("postroom:refresh", (event) => refresh(event.detail));

// Times

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
const absolute = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const UNITS = [
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
];

function words(date) {
  const seconds = (date - Date.now()) / 1000;
  const size = Math.abs(seconds);
  if (size < 45) return seconds > 5 ? `in ${Math.round(seconds)} s` : "just now";
  if (size > 7 * 86400) return absolute.format(date);
  const [unit, length] = UNITS.find(([, length]) => size >= length) ?? UNITS[2];
  return relative.format(Math.round(seconds / length), unit);
}

function tellTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const date = new Date(element.dateTime);
    if (!element.dataset.said) {
      element.dataset.said = element.textContent;
      element.title = `${absolute.format(date)} (${element.title})`;
    }
    const text = words(date);
    if (element.textContent !== text) element.textContent = text;
  }
}
whenShown(tellTimes);
setInterval(() => document.hidden || tellTimes(document.body), 10_000);

// Copying

whenShown((root) => {
  for (const button of root.querySelectorAll("button[data-copy]")) button.hidden = !navigator.clipboard;
});
document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("button[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1500);
    toast("Copied.");
  } catch {
    toast("The browser does not allow copying here: select the text instead.", "bad");
  }
});

// Forms: data-confirm asks first; data-quiet stays on the page

document.addEventListener("submit", async (event) => {
  const form = event.target;
  const question = event.submitter?.dataset.confirm ?? form.dataset.confirm;
  if (question && !window.confirm(question)) return event.preventDefault();
  if (form.dataset.quiet === undefined) return;
  event.preventDefault();
  const body = new FormData(form, event.submitter);
  const isForm = form.enctype === "multipart/form-data";
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      headers: { "X-Quiet": "1" },
      body: isForm ? body : new URLSearchParams(body),
    });
    const told = await answer.json();
    if (answer.status === 401) return location.assign(told.go);
    if (told.said) toast(told.said, told.kind);
    if (answer.ok && form.dataset.quiet === "go") location.assign(told.go);
    else {
      if (answer.ok) form.dispatchEvent(new CustomEvent("postroom:done"));
      refresh();
    }
  } catch {
    toast("The gateway did not answer. Try again.", "bad");
  }
});

// On a phone the navigation is one line that scrolls: where one is, is seen

const rail = document.querySelector("nav.rail");
const here = rail?.querySelector("[aria-current]")?.getBoundingClientRect();
if (here && here.right > rail.clientWidth) rail.scrollLeft += here.left - (rail.clientWidth - here.width) / 2;

// The switch of colours, at once

document.querySelector("form.themes")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const theme = event.submitter.value;
  document.documentElement.dataset.theme = theme;
  document.cookie = `postroom-theme=${theme}; path=/; max-age=31536000; samesite=lax`;
});

keys.start();
live.start();
