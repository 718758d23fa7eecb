// In cypress.config.mjs: e2e: { setupNodeEvents(on) { on("task", tasks); } }
import { mailbox, remembered } from "./postroom.mjs";

const boxes = new Map(); // tasks run in Node and live as long as Cypress does; specs hold ids alone

export const tasks = {
  async mailbox(wanted) {
    const box = await mailbox(wanted ?? {});
    boxes.set(box.id, box);
    return { id: box.id, address: box.address };
  },
  async waitForMail({ id, ...wanted }) {
    const { message, code, link } = await boxes.get(id).wait(wanted);
    return { code, link, subject: message.subject, text: message.text, html: message.html };
  },
  async deleteMailbox({ id }) {
    await boxes.get(id).delete();
    return boxes.delete(id);
  },
};

// In a spec:
//   cy.task("mailbox").then((inbox) => {
//     cy.visit("/sign-up");
//     cy.get("#email").type(inbox.address);
//     cy.contains("Sign up").click();
//     cy.task("waitForMail", { id: inbox.id, for: "code" }, { timeout: 40000 }).then(({ code }) => cy.get("#code").type(code));
//   });
