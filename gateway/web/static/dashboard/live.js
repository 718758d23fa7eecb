// What happens, as it happens: one stream of the account's events for all tabs of this browser.
//
//     import { subscribe } from "./live.js";
//     subscribe(["message.received"], (event) => …);   // also called with null: "look again, something may be missed"
//
// Browsers keep six connections to a host. So one tab, which holds a lock, has the stream and passes it on to the others;
// where there are no locks (plain HTTP to another host) each tab has its own.

const RETRY_MS = [500, 1000, 2000, 5000, 10000];
const subscribers = [];
const channel = "BroadcastChannel" in window ? new BroadcastChannel("postroom-live") : null;
let source = null;
let cursor = "";
let failures = 0;
let state = "off";
let leave = () => {}; // gives the lock to another tab

/** Call `listener(event)` for each event of these types ("*": all), and `listener(null)` when some may be missed. */
export function subscribe(types, listener) {
  subscribers.push({ types: new Set(types), listener });
}

function show(next, why = "") {
  state = next;
  const pulse = document.getElementById("pulse");
  if (!pulse) return;
  const words = { live: "Live", waiting: "Reconnecting…", off: "Not live" };
  pulse.dataset.state = next;
  const text = why || words[next];
  const said = pulse.querySelector(".words");
  if (said.textContent !== text) said.textContent = text;
}

function tell(event) {
  for (const { types, listener } of subscribers) {
    if (event === null || types.has("*") || types.has(event.type)) listener(event);
  }
}

function pass(message) {
  channel?.postMessage(message);
  hear(message);
}

function hear({ kind, event, next, why }) {
  if (kind === "event") tell(event);
  else if (kind === "state") {
    const wasLive = state === "live";
    show(next, why);
    if (next === "live" && !wasLive) tell(null);
  } else if (kind === "hello" && source) channel.postMessage({ kind: "state", next: state, why: "" });
}

function open() {
  source = new EventSource("/live" + (cursor ? `?after=${cursor}` : ""));
  source.onopen = () => {
    failures = 0;
    pass({ kind: "state", next: "live" });
  };
  source.onerror = () => {
    source.close();
    retry();
  };
  for (const type of types()) source.addEventListener(type, receive);
}

/** Every type that the log may hold; the page tells. */
function types() {
  return document.getElementById("pulse").dataset.types.split(" ");
}

function receive(message) {
  cursor = message.lastEventId;
  pass({ kind: "event", event: JSON.parse(message.data) });
}

async function retry() {
  const answer = await fetch("/live", { headers: { Accept: "text/event-stream", "X-Quiet": "1" } }).catch(() => null);
  answer?.body?.cancel();
  if (answer?.status === 401) return end("Signed out");
  if (answer?.status === 403) return end("Not live: not for this key");
  if (answer?.status === 410) cursor = "";
  if (answer?.status === 429) failures = RETRY_MS.length;
  if (failures > 0 || !answer?.ok) pass({ kind: "state", next: "waiting", why: answer?.status === 429 ? "Too many live pages" : "" });
  const pause = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)];
  failures += 1;
  if (failures > 2) cursor = ""; // it may lie outside the log by now; everything is looked at again instead
  setTimeout(open, pause);
}

/** Not live any more; another tab, in which somebody has signed in since, may try. */
function end(why) {
  source = null;
  pass({ kind: "state", next: "off", why });
  leave();
}

/** Begin; once a page. */
export function start() {
  if (!document.getElementById("pulse")) return;
  show("waiting", "Connecting…");
  if (!channel || !navigator.locks) return open();
  channel.onmessage = (message) => hear(message.data);
  channel.postMessage({ kind: "hello" });
  navigator.locks.request("postroom-live", () => {
    open();
    return new Promise((done) => (leave = done)); // for as long as this page is there, or is live
  });
}
