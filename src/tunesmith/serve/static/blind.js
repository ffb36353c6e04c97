// The blind test: two texts without names, a choice, and what all choices say.

import { getJson, postJson } from "/static/api.js";

const get = (id) => document.getElementById(id);

export class Blind {
  // settings() gives what both models are asked for.
  constructor(settings) {
    this.settings = settings;
    this.name = null;
    this.isAsking = false;
    get("new-pair").addEventListener("click", () => this.next());
    for (const choice of ["a", "b", "tie"]) get(`choose-${choice}`).addEventListener("click", () => this.choose(choice));
    document.addEventListener("keydown", (event) => this.key(event));
  }

  async open() {
    try {
      this.tell(await getJson("/playground/standing"));
    } catch (error) {
      get("blind-status").textContent = error.message;
    }
  }

  key(event) {
    const isTyping = event.target.matches("textarea, input:not([type=range]):not([type=checkbox])");
    if (get("view-blind").hidden || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const choice = { a: "a", b: "b", "=": "tie" }[event.key.toLowerCase()];
    if (choice) this.choose(choice);
    else if (event.key.toLowerCase() === "n") this.next();
  }

  async next() {
    if (this.isAsking) return;
    this.isAsking = true;
    this.show(null);
    get("new-pair").disabled = true;
    get("blind-status").textContent = "Both are writing …";
    try {
      const asked = this.settings();
      const pair = await postJson("/playground/pairs", asked);
      this.show(pair, asked.prompt);
      get("blind-status").textContent = pair.a === pair.b ? "Both wrote the same." : "Which is better?";
      get("choose-a").focus();
    } catch (error) {
      get("blind-status").textContent = error.message;
    } finally {
      this.isAsking = false;
      get("new-pair").disabled = false;
    }
  }

  show(pair, prompt = "") {
    this.name = pair?.name ?? null;
    get("pair").hidden = get("choices").hidden = !pair;
    for (const side of ["a", "b"]) {
      const before = document.createElement("span");
      before.className = "prompt";
      before.textContent = prompt;
      get(`text-${side}`).replaceChildren(before, pair ? pair[side] : "");
      get(`who-${side}`).textContent = "";
    }
  }

  async choose(choice) {
    if (!this.name) return;
    const name = this.name;
    this.name = null;
    try {
      const kept = await postJson("/playground/votes", { name, choice });
      get("choices").hidden = true;
      for (const side of ["a", "b"]) get(`who-${side}`).textContent = side === kept.tuned ? "was tuned" : "was base";
      get("blind-status").textContent = choice === "tie" ? "Kept: no difference." : `Kept: ${choice.toUpperCase()}.`;
      this.tell(kept.standing);
      get("new-pair").focus();
    } catch (error) {
      get("blind-status").textContent = error.message;
    }
  }

  tell(standing) {
    const { num_choices: total, wins, losses, ties } = standing;
    const share = (value) => `${Math.round(100 * value)}%`;
    get("standing").textContent = total
      ? `Tuned preferred in ${wins} of ${total}, base in ${losses}, no difference in ${ties}: win rate `
        + `${share(standing.win_rate)} (95% interval ${share(standing.low)} to ${share(standing.high)}).`
      : "No choices yet.";
  }
}
