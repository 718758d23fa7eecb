// Runs the examples of docs/examples: node examples.mjs FOLDER api | cypress | playwright PLAYWRIGHT CDP
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const [folder, what, playwright, cdp] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(`${folder}/${name}`));
const { POSTROOM_URL, POSTROOM_API_KEY } = process.env;

async function send(to, subject, text) {
  const answer = await fetch(`${POSTROOM_URL}/v1/emails`, {
    method: "POST",
    headers: { authorization: `Bearer ${POSTROOM_API_KEY}`, "content-type": "application/json" },
    body: JSON.stringify({ from: "shop@postroom.test", to, subject, text }),
  });
  assert.equal(answer.status, 202);
}

async function api() {
  const { mailbox, remembered } = await load("postroom.mjs");
  const inbox = await mailbox({ ttl: 60, metadata: { test: "api" } });
  await send(inbox.address, "first", "Your verification code is 482913.");
  assert.equal((await inbox.wait({ for: "code" })).code, "482913");
  await send(inbox.address, "second", "Verify your e-mail: https://shop.example/verify?token=abc");
  const elsewhere = remembered(JSON.parse(JSON.stringify(inbox)));
  assert.equal((await elsewhere.wait({ for: "link", kind: "verify" })).link, "https://shop.example/verify?token=abc");
  await assert.rejects(elsewhere.wait({ timeout: 0 }), { name: "wait_timeout", status: 408 });
  assert.deepEqual((await inbox.messages()).map((one) => one.subject), ["second", "first"]);
  await inbox.delete();
  await assert.rejects(inbox.messages());
}

async function cypress() {
  const { tasks } = await load("cypress.tasks.mjs");
  const inbox = await tasks.mailbox(null);
  assert.deepEqual(Object.keys(inbox), ["id", "address"]);
  await send(inbox.address, "Your code", "Your verification code is 482913.");
  const found = await tasks.waitForMail({ id: inbox.id, for: "code" });
  assert.deepEqual([found.code, found.subject], ["482913", "Your code"]);
  assert.equal(await tasks.deleteMailbox({ id: inbox.id }), true);
}

const PAGE = `<!doctype html><title>Shop</title><form method="post">
<label>E-mail <input name="email"></label><button>Sign up</button></form>`;
const CONFIRM = `<!doctype html><title>Shop</title><form method="post" action="/confirm">
<label>Code <input name="code"></label><button>Confirm</button></form>`;

// An application under test: it mails a code to whoever signs up, and lets in whoever knows it.
function shop() {
  return createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    const form = new URLSearchParams(body);
    response.setHeader("content-type", "text/html");
    if (request.url === "/confirm") return response.end(form.get("code") === "771204" ? "Welcome" : "Wrong");
    if (request.method === "POST") await send(form.get("email"), "Hello", "Your verification code is 771204.");
    return response.end(request.method === "POST" ? CONFIRM : PAGE);
  });
}

async function browser() {
  const { chromium } = await import(pathToFileURL(playwright));
  const { fixtures, signUp } = await load("playwright.fixtures.mjs");
  const server = shop().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const visited = await chromium.connectOverCDP(cdp);
  const context = await visited.newContext({ baseURL: `http://127.0.0.1:${server.address().port}` });
  const page = await context.newPage();
  const attached = [];
  const info = { title: "sign-up", expectedStatus: "passed", status: "passed" };
  info.attach = async (name, { body }) => attached.push([name, JSON.parse(body)]);
  await fixtures.inbox({}, (inbox) => signUp({ page, inbox }), info);
  const failing = { ...info, status: "failed" };
  await fixtures.inbox({}, (inbox) => send(inbox.address, "Hello", "…").then(() => inbox.wait()), failing);
  assert.deepEqual([attached[0][0], attached[0][1][0].subject], ["mail", "Hello"]);
  await context.close();
  await visited.close();
  server.close();
}

await { api, cypress, playwright: browser }[what]();
console.log("done");
