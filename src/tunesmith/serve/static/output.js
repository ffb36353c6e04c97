// One model's text: pieces as they come, the probability of each token, copied spans, the nearest training row.

const TITLES = { tuned: "Tuned", base: "Base" };

export class Side {
  constructor(model, title) {
    this.model = model;
    this.element = document.getElementById("side").content.cloneNode(true).firstElementChild;
    this.find = (selector) => this.element.querySelector(selector);
    this.title = title ?? TITLES[model] ?? model;
    this.find(".title").textContent = this.title;
    this.box = this.find(".text");
    this.box.setAttribute("aria-label", `${this.title}: arrow keys go through the tokens`);
    this.find(".copy").addEventListener("click", () => navigator.clipboard.writeText(this.prompt + this.text));
    this.box.addEventListener("mouseover", (event) => this.show(this.spans.indexOf(event.target)));
    this.box.addEventListener("keydown", (event) => this.move(event));
    this.clear("", false);
  }

  clear(prompt, showPrompt) {
    this.prompt = showPrompt ? prompt : "";
    this.text = "";
    this.spans = [];
    this.details = [];
    this.waiting = [];
    this.numTokens = 0;
    this.current = -1;
    this.begun = performance.now();
    this.box.replaceChildren();
    if (this.prompt) this.box.append(piece("prompt", this.prompt));
    for (const name of [".numbers", ".detail"]) this.find(name).textContent = "";
    this.find(".detail").classList.remove("error");
    this.find(".row").hidden = true;
    this.find(".copy").disabled = true;
  }

  add({ text, tokens }) {
    this.waiting.push(...tokens);
    this.numTokens += tokens.length;
    if (!text) return;
    const span = piece("token", text);
    const least = Math.min(0, ...this.waiting.map((token) => token.logprob));
    if (this.waiting.length) span.classList.add(shade(Math.exp(least)));
    this.details.push(this.waiting);
    this.waiting = [];
    this.spans.push(span);
    this.box.append(span);
    this.text += text;
  }

  finish(reason) {
    const seconds = (performance.now() - this.begun) / 1000;
    const end = { length: ", cut at the limit", stop: "", halted: ", stopped" }[reason] ?? "";
    this.find(".numbers").textContent = `${this.numTokens} tokens, ${(this.numTokens / seconds).toFixed(1)}/s${end}`;
    this.find(".copy").disabled = !this.text;
  }

  fail(message) {
    this.find(".detail").textContent = message;
    this.find(".detail").classList.add("error");
  }

  // The probabilities of the token at `at`, in words.
  show(at) {
    if (at < 0 || at >= this.spans.length) return;
    this.spans[this.current]?.classList.remove("current");
    this.current = at;
    this.spans[at].classList.add("current");
    const told = this.details[at].map((token) => {
      const others = token.top.filter(([text]) => text !== token.text).slice(0, 4);
      const rest = others.map(([text, logprob]) => `${quoted(text)} ${percent(logprob)}`).join(", ");
      return `${quoted(token.text)} ${percent(token.logprob)}${rest ? `; instead: ${rest}` : ""}`;
    });
    this.find(".detail").textContent = told.join("\n");
  }

  move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined || !this.spans.length) return;
    event.preventDefault();
    this.show(Math.max(0, Math.min(this.spans.length - 1, this.current + step)));
  }

  // found: what the server says of the text's training rows; null with `why` there are none.
  beside(found, why) {
    this.find(".row").hidden = false;
    const quote = this.find("blockquote");
    if (!found) {
      quote.textContent = why ?? "";
      return;
    }
    const row = found.copied_from ?? found.nearest;
    this.find("h3").firstChild.textContent = found.copied_from ? "Copied from training row " : "Nearest training row ";
    this.find(".similarity").textContent = row
      ? `${row.row}${row.similarity == null ? "" : `, similarity ${row.similarity.toFixed(2)}`}` : "";
    quote.textContent = row ? row.text : "No training row shares a word with this text.";
    this.find(".copied-told").textContent = found.copied.length
      ? `${Math.round(100 * found.copied_share)}% of the words stand in training rows word for word; the longest span `
        + `has ${found.longest_copy} words.`
      : `Nothing of eight words or more is copied; the longest shared span has ${found.longest_copy} words.`;
    let place = 0;
    for (const span of this.spans) {
      const end = place + span.textContent.length;
      const inside = found.copied.some(([from, to]) => place < to && end > from);
      span.classList.toggle("copied", inside);
      place = end;
    }
  }
}

function piece(kind, text) {
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = text;
  return span;
}

function shade(probability) {
  const level = [0.5, 0.2, 0.05, 0.01].findIndex((bound) => probability >= bound);
  return `p${level < 0 ? 4 : level}`;
}

function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  return share >= 10 ? `${share.toFixed(0)}%` : share >= 0.1 ? `${share.toFixed(1)}%` : "<0.1%";
}

function quoted(text) {
  return JSON.stringify(text);
}
