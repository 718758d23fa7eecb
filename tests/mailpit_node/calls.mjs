// Calls Mailpit's published clients as it is told to, a line of JSON each: {"call": "getInfo", "with": [...]} calls a
// method of mailpit-api's client, {"cypress": "mailpitGetMail", "with": [...]} a command of cypress-mailpit. What it
// returned goes out as {"data": ...}, what it threw as {"error": ...}.
// Arguments: the folder of modules, Mailpit's URL, user name and password (empty = none).

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [modules, url, username, password] = process.argv.slice(2);
const { MailpitClient } = await import(pathToFileURL(`${modules}/mailpit-api/dist/index.mjs`));
const client = new MailpitClient(url, username ? { auth: { username, password } } : undefined);

// As much of Cypress as its commands for Mailpit touch; its requests come from Node, too, not from a page.
const parsed = async (response) => {
  const type = response.headers.get("content-type") ?? "";
  return type.startsWith("application/json") ? response.json() : response.text();
};
globalThis.Cypress = { expose: () => url, config: () => 4000 };
globalThis.cy = {
  env: async () => ({ MAILPIT_USERNAME: username, MAILPIT_PASSWORD: password }),
  wrap: async (value) => value,
  wait: (milliseconds) => new Promise((done) => setTimeout(done, milliseconds)),
  async request({ method, url, body, qs, auth }) {
    const headers = {};
    if (auth) headers.authorization = `Basic ${btoa(`${auth.user}:${auth.pass}`)}`;
    if (body) headers["content-type"] = "application/json";
    const asked = qs ? `${url}?${new URLSearchParams(qs)}` : url;
    const response = await fetch(asked, { method, headers, body: body && JSON.stringify(body) });
    if (!response.ok) throw new Error(`cy.request() failed: ${response.status}: ${await response.text()}`);
    return { status: response.status, body: await parsed(response) };
  },
};
const { MailpitCommands } = await import(pathToFileURL(`${modules}/cypress-mailpit/dist/src/MailpitCommands.js`));
const commands = new MailpitCommands();

const plain = async (value) =>
  value instanceof Blob ? { type: value.type, base64: Buffer.from(await value.arrayBuffer()).toString("base64") } : value;

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  let answer;
  try {
    const called = asked.cypress ? commands[asked.cypress](...asked.with) : client[asked.call](...asked.with);
    answer = { data: (await plain(await called)) ?? null };
  } catch (error) {
    answer = { error: error.message };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
