// The form for an e-mail: Ctrl+Enter sends it; what is on its way is not sent again by a second click.

const form = document.getElementById("compose");
form?.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
form?.addEventListener("submit", () => {
  form.querySelector("button.primary").setAttribute("aria-busy", "true");
});
