"use strict";
// Asks the server for what changed, and puts it where it belongs. Fast while the page is seen and the run lives.
const SOON = 1000, LATER = 5000, HIDDEN = 15000;
const places = new Map([...document.querySelectorAll("[data-part]")].map((place) => [place.dataset.part, place]));
const lost = document.getElementById("lost");
const address = "/live" + location.pathname;
let timer = 0, wait = SOON;

function put(place, hash, html) {
  const atEnd = place.scrollHeight - place.scrollTop - place.clientHeight < 4;
  place.innerHTML = html; // written by the server's template, which escapes every text; the policy runs no script in it
  place.dataset.seen = hash;
  if (atEnd) place.scrollTop = place.scrollHeight;
}

async function look() {
  clearTimeout(timer);
  const known = [...places.values()].map((place) => place.dataset.seen).join(",");
  try {
    const answer = await fetch(`${address}?known=${known}`, { signal: AbortSignal.timeout(20000) });
    if (answer.status === 401) return location.reload();
    if (!answer.ok) throw new Error(answer.status);
    const told = await answer.json();
    document.title = told.title;
    for (const [name, [hash, html]] of Object.entries(told.parts)) put(places.get(name), hash, html);
    lost.hidden = true;
    wait = told.alive ? SOON : LATER;
  } catch {
    lost.hidden = false;
    wait = Math.min(2 * wait, HIDDEN);
  }
  clearTimeout(timer);
  timer = setTimeout(look, document.hidden ? HIDDEN : wait);
}

const log = places.get("log");
if (log) log.scrollTop = log.scrollHeight;
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
timer = setTimeout(look, SOON);
