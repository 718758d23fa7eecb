// Calls Resend's client as it is told to, a line of JSON each: {"call": "emails.send", "with": [...]} → what it returned.
// Arguments: the client's module, then the key, and its options as JSON. {"$bytes": base64} in a call is a Buffer.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [module, key, options] = process.argv.slice(2);
const { Resend } = await import(pathToFileURL(module));
const resend = new Resend(key, JSON.parse(options));
const revived = (_, value) => (value?.$bytes === undefined ? value : Buffer.from(value.$bytes, "base64"));

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line, revived);
  const [room, call] = asked.call.split(".");
  process.stdout.write(`${JSON.stringify(await resend[room][call](...asked.with))}\n`);
}
