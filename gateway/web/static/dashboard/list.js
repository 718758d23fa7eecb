// Long lists: searched as one types, and going on for as long as one scrolls without growing without end.

import { fetched, swap } from "./fragment.js";
import { toast } from "./toast.js";

const list = document.getElementById("list");

// Searching: the same address as the plain form's, so that it can be kept and sent on

const PAUSE_MS = 120;
const form = document.querySelector("form[data-search]");
let turn = 0;

if (form && list) {
  const field = form.querySelector("input[type=search]");
  let timer = 0;
  form.querySelector("button").hidden = true;
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => search(field.value), PAUSE_MS);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    search(field.value);
  });
}

async function search(text) {
  const url = new URL(location.href);
  if (text.trim()) url.searchParams.set("q", text);
  else url.searchParams.delete("q");
  url.searchParams.delete("cursor");
  const mine = (turn += 1);
  history.replaceState(null, "", url);
  list.dataset.url = url.href;
  list.setAttribute("aria-busy", "true");
  try {
    const html = await fetched("list", url.href);
    if (mine !== turn) return;
    forget();
    swap(list, html);
    begin();
  } catch (answer) {
    if (mine === turn && answer instanceof Response && answer.status === 429) toast("Too many requests for this key.", "bad");
  } finally {
    if (mine === turn) list.removeAttribute("aria-busy");
  }
}

// Going on: each further page is a piece of its own, which is emptied again when it is far from what is looked at

const AHEAD_PX = 2500;
let pieces = [];
let watcher = null;

class Piece {
  constructor(url, after) {
    this.url = url;
    this.element = document.createElement("div");
    this.element.className = "piece";
    this.element.style.minHeight = "40px";
    this.filled = false;
    this.near = false;
    after.after(this.element);
    watcher.observe(this.element);
  }

  async fill() {
    if (this.filled || this.filling) return;
    this.filling = true;
    try {
      swap(this.element, await fetched("list", this.url));
      this.filled = true;
      this.element.style.minHeight = "";
      this.next();
      if (!this.near) this.empty();
    } catch {
      setTimeout(() => this.near && this.fill(), 2000);
    } finally {
      this.filling = false;
    }
  }

  next() {
    const older = olderIn(this.element);
    if (older && pieces.at(-1) === this) pieces.push(new Piece(older, this.element));
  }

  empty() {
    if (!this.filled || this.element.querySelector(":checked")) return;
    this.element.style.minHeight = `${this.element.offsetHeight}px`;
    this.element.replaceChildren();
    this.element.fragmentText = undefined;
    this.filled = false;
  }
}

/** The address of the next page, whose link is taken away: one goes on by scrolling. */
function olderIn(element) {
  const pager = element.querySelector(".pager");
  const link = pager?.querySelector('a[data-key="n"]');
  pager?.remove();
  return link?.href;
}

function forget() {
  watcher?.disconnect();
  for (const piece of pieces) piece.element.remove();
  pieces = [];
  list.classList.remove("goes-on");
}

function begin() {
  if (!list || new URLSearchParams(location.search).has("cursor")) return;
  const link = list.querySelector('.pager a[data-key="n"]');
  if (!link) return;
  watcher = new IntersectionObserver(look, { rootMargin: `${AHEAD_PX}px 0px` });
  list.classList.add("goes-on"); // its own pager is hidden; live looks at it bring it back each time
  pieces = [new Piece(link.href, list)];
}

function look(entries) {
  for (const entry of entries) {
    const piece = pieces.find((one) => one.element === entry.target);
    if (!piece) continue;
    piece.near = entry.isIntersecting;
    if (piece.near) piece.fill();
    else piece.empty();
  }
}

// New mail moves the first page's last rows on: what follows begins anew behind them, unless somebody reads there

list?.addEventListener("postroom:shown", () => {
  const link = list.querySelector('.pager a[data-key="n"]');
  if (!pieces.length) return begin();
  if (!link || link.href === pieces[0].url) return;
  if (pieces[0].element.getBoundingClientRect().top < innerHeight) return;
  forget();
  begin();
});

begin();
