const every = Number(document.documentElement.dataset.refresh) * 1000;
const say = (text) => { document.getElementById("live").textContent = text; };
async function refresh() {
  try {
    const answer = await fetch(location.pathname, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    const open = new Set([...document.querySelectorAll("details[open][id]")].map((each) => each.id));
    for (const each of next.querySelectorAll("details[id]")) each.open = open.has(each.id);
    for (const id of ["top", "main"]) {
      const [old, fresh] = [document.getElementById(id), next.getElementById(id)];
      const held = old.contains(document.activeElement) ? document.activeElement.id : "";
      if (old.innerHTML !== fresh.innerHTML) {
        old.replaceWith(fresh);
        if (held) document.getElementById(held)?.focus({ preventScroll: true });
      }
    }
    say(next.getElementById("live").textContent);
  } catch {
    say("The server does not answer; this page is no longer refreshed. It may have been stopped.");
  }
}
setInterval(refresh, every);
