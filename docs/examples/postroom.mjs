// Mailboxes for tests, by plain fetch: no dependency, Node 18 or newer, or a browser.
// POSTROOM_URL and POSTROOM_API_KEY say where the gateway is; `postroom dev` prints both.

const { POSTROOM_URL, POSTROOM_API_KEY } = globalThis.process?.env ?? {};

async function call(method, path, { key = POSTROOM_API_KEY, body } = {}) {
  const answer = await fetch(`${POSTROOM_URL}/v1${path}`, {
    method,
    headers: { authorization: `Bearer ${key}`, ...(body && { "content-type": "application/json" }) },
    body: body && JSON.stringify(body),
  });
  const said = answer.status === 204 ? null : await answer.json();
  if (answer.ok) return said;
  throw Object.assign(new Error(`${method} ${path}: ${said.message}`), { name: said.name, status: answer.status });
}

/** A mailbox of the test's own. It lives `ttl` seconds, should nobody delete it. */
export async function mailbox({ ttl = 600, ...wanted } = {}) {
  const made = await call("POST", "/mailboxes", { body: { ttl_seconds: ttl, ...wanted } });
  return remembered({ id: made.id, address: made.address, token: made.token, cursor: made.cursor, given: [] });
}

/** The same mailbox in another process: what `mailbox` gave, as JSON. */
export function remembered(box) {
  const path = `/mailboxes/${box.id}`;
  return {
    ...box,

    /** The next message: { message, code, link }. `wanted` may have for: "code" | "link", kind, from, subject, text. */
    async wait({ timeout = 30, ...wanted } = {}) {
      const until = Date.now() + timeout * 1000;
      for (;;) {
        const left = Math.max(0, (until - Date.now()) / 1000);
        const query = new URLSearchParams({ ...wanted, timeout: Math.min(left, 25), since: box.cursor });
        if (box.given.length) query.set("skip", box.given.slice(-100).join(","));
        try {
          const found = await call("GET", `${path}/wait?${query}`, { key: box.token });
          box.given.push(found.message.id); // so that each wait has another message, in any order of arrival
          return found;
        } catch (error) {
          if (error.name !== "wait_timeout" || left <= 25) throw error; // it lists the subjects that did arrive
        }
      }
    },

    /** Its messages, newest first. */
    messages: async () => (await call("GET", `${path}/messages`, { key: box.token })).data,

    delete: () => call("DELETE", path, { key: box.token }),
  };
}
