// In Playwright Test: import { test as base } from "@playwright/test"; export const test = base.extend(fixtures);
import { mailbox } from "./postroom.mjs";

export const fixtures = {
  inbox: async ({}, use, info) => {
    const inbox = await mailbox({ metadata: { test: info.title } });
    await use(inbox);
    if (info.status === info.expectedStatus) await inbox.delete(); // that of a test that fails is kept, to be looked at
    else await info.attach("mail", { body: JSON.stringify(await inbox.messages(), null, 2) });
  },
};

/** A test: test("sign-up", signUp); */
export async function signUp({ page, inbox }) {
  await page.goto("/sign-up");
  await page.getByLabel("E-mail").fill(inbox.address);
  await page.getByRole("button", { name: "Sign up" }).click();
  const { code } = await inbox.wait({ for: "code" });
  await page.getByLabel("Code").fill(code);
  await page.getByRole("button", { name: "Confirm" }).click();
  await page.getByText("Welcome").waitFor();
}
