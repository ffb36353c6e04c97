// The page: what is asked, both texts side by side, what was asked before.

import { getJson, postJson, streamText } from "/static/api.js";
import { Blind } from "/static/blind.js";
import { Side } from "/static/output.js";

const get = (id) => document.getElementById(id);
const SLIDERS = ["temperature", "top_p", "max_tokens"];
const MAX_HISTORY = 50;
const TOP_LOGPROBS = 5;

let about, sides, halted;
const past = [];

function settings() {
  const stop = get("stop").value;
  return {
    prompt: get("prompt").value,
    temperature: Number(get("temperature").value),
    top_p: Number(get("top_p").value),
    max_tokens: Number(get("max_tokens").value),
    seed: Number(get("seed").value),
    ...(stop ? { stop } : {}),
  };
}

function isQuestion(asked) {
  return about.asks_in_turns && !get("raw").checked && asked.prompt !== "";
}

async function write() {
  if (halted) halted.abort();
  const asked = settings();
  const signal = (halted = new AbortController()).signal;
  const mine = halted;
  busy(true);
  get("status").textContent = "";
  const asQuestion = isQuestion(asked);
  for (const side of sides) side.clear(asked.prompt, !asQuestion);
  await Promise.all(sides.map((side) => writeSide(side, asked, asQuestion, signal)));
  if (halted !== mine) return;
  halted = null;
  busy(false);
  remember(asked);
  get("copy").disabled = !sides.some((side) => side.text);
  get("status").textContent = signal.aborted ? "Stopped." : "Done.";
  if (about.has_rows) await showRows();
}

async function writeSide(side, { prompt, ...asked }, asQuestion, signal) {
  const path = asQuestion ? "/v1/chat/completions" : "/v1/completions";
  const body = asQuestion
    ? { messages: [{ role: "user", content: prompt }], logprobs: true, top_logprobs: TOP_LOGPROBS }
    : { prompt, logprobs: TOP_LOGPROBS };
  let finish = null;
  try {
    await streamText(path, { model: side.model, ...body, ...asked }, signal, (chunk) => {
      side.add(chunk);
      finish = chunk.finish ?? finish;
    });
    side.finish(finish);
  } catch (error) {
    side.finish("halted");
    if (!signal.aborted) side.fail(error.message);
  }
}

async function showRows() {
  const shown = sides.map((side) => side.text);
  const rows = await postJson("/playground/rows", { texts: shown }).catch((error) => ({ rows: [], why: error.message }));
  sides.forEach((side, at) => {
    if (side.text === shown[at]) side.beside(rows.rows[at] ?? null, rows.why);
  });
}

function busy(is) {
  get("halt").disabled = !is;
  get("copy").disabled = is || !sides.some((side) => side.text);
}

function remember(asked) {
  past.unshift({ asked, raw: get("raw").checked, texts: sides.map((side) => side.text) });
  past.length = Math.min(past.length, MAX_HISTORY);
  get("history-box").hidden = false;
  get("history").replaceChildren(...past.map((entry) => {
    const button = document.createElement("button");
    button.type = "button";
    const { prompt, temperature, seed } = entry.asked;
    const begin = (text) => (text.length > 60 ? `${text.slice(0, 60)}…` : text);
    button.textContent = `${begin(prompt) || "(from nothing)"} — temperature ${temperature}, seed ${seed}: `
      + begin(entry.texts[0]);
    button.addEventListener("click", () => recall(entry));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

function recall({ asked, raw }) {
  get("prompt").value = asked.prompt;
  for (const name of [...SLIDERS, "seed"]) get(name).value = asked[name];
  get("stop").value = asked.stop ?? "";
  get("raw").checked = raw;
  SLIDERS.forEach(showSlider);
  get("prompt").focus();
}

function showSlider(name) {
  get(`${name}-shown`).textContent = get(name).value;
}

function chips(box, texts) {
  box.replaceChildren(...texts.map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.title = text;
    button.addEventListener("click", () => {
      get("prompt").value = text;
      get("prompt").focus();
    });
    return button;
  }));
}

function show(view) {
  for (const name of ["write", "blind"]) {
    get(`view-${name}`).hidden = name !== view;
    get(`tab-${name}`).setAttribute("aria-pressed", String(name === view));
  }
  get("write-actions").hidden = view !== "write";
}

function copyBoth() {
  const texts = sides.map((side) => `${side.title}:\n${side.prompt}${side.text}`);
  navigator.clipboard.writeText(texts.join("\n\n"));
  get("status").textContent = "Copied.";
}

function listen() {
  get("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!get("view-write").hidden) write();
  });
  get("halt").addEventListener("click", () => halted?.abort());
  get("copy").addEventListener("click", copyBoth);
  get("new-seed").addEventListener("click", () => {
    get("seed").value = Math.floor(Math.random() * 2 ** 32);
  });
  for (const name of SLIDERS) get(name).addEventListener("input", () => showSlider(name));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") halted?.abort();
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !get("view-write").hidden) {
      event.preventDefault();
      write();
    }
  });
}

async function start() {
  about = await getJson("/playground/about");
  document.title = `${about.name} – tunesmith`;
  get("name").textContent = about.name;
  sides = about.models.map((model) => new Side(model, about.models.length > 1 ? undefined : about.name));
  get("sides").replaceChildren(...sides.map((side) => side.element));
  get("max_tokens").max = about.most_new_tokens;
  const first = { ...about, max_tokens: about.max_new_tokens };
  for (const name of [...SLIDERS, "seed"]) get(name).value = first[name];
  SLIDERS.forEach(showSlider);
  chips(get("prompts"), about.prompts);
  get("prompt").value = about.prompts[0] ?? "";
  get("report").hidden = !about.has_report;
  get("raw-box").hidden = !about.asks_in_turns;
  get("prompt-kind").textContent = about.asks_in_turns ? "is asked as a user's turn" : "is continued";
  get("notes").hidden = !about.notes.length;
  get("notes").replaceChildren(...about.notes.map((note) => {
    const item = document.createElement("li");
    item.textContent = note;
    return item;
  }));
  listen();
  if (about.has_blind_test) {
    const blind = new Blind(() => {
      const { stop, seed, ...asked } = settings();
      return asked;
    });
    get("tab-blind").hidden = false;
    get("tab-write").addEventListener("click", () => show("write"));
    get("tab-blind").addEventListener("click", () => {
      show("blind");
      blind.open();
    });
  }
  if (about.has_rows) {
    const { openings } = await getJson("/playground/openings");
    chips(get("openings"), openings);
    get("openings-box").hidden = !openings.length;
  }
}

start().catch((error) => {
  get("status").textContent = error.message;
});
