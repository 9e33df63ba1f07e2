// Models that write: a prompt, how boldly, and the texts as they come.

import { call, showFault, showWarnings, stream } from "./api.js";
import { Dial } from "./dial.js";
import { kept } from "./kept.js";
import { slider } from "./sliders.js";
import { SurpriseView } from "./surprise.js";
import { t } from "./words.js";

const TEMPERATURES = [0.2, 0.5, 0.8, 1.2];
const find = (id) => document.getElementById(id);

/** One text: its card, and the request that writes it. */
class Column {
  constructor(panel, temperature) {
    this.panel = panel;
    this.temperature = temperature;
    this.root = document.createElement("article");
    this.body = document.createElement("div");
    this.foot = document.createElement("footer");
    this.facts = document.createElement("span");
    this.copy = document.createElement("button");
    this.copy.type = "button";
    this.copy.className = "quiet";
    this.copy.hidden = !navigator.clipboard; // over plain HTTP from elsewhere
    this.copy.addEventListener("click", () => this.#copy());
    this.foot.append(this.facts, this.copy);
    this.foot.hidden = true;
    if (panel.four) this.root.append(this.#head());
    this.root.append(this.body, this.foot);
    this.view = new SurpriseView(this.body, (before, token) => this.branch(before, token));
  }

  /** Its own temperature, which can be moved. */
  #head() {
    const head = document.createElement("label");
    head.className = "slider";
    const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 1.5, step: 0.05, value: this.temperature });
    const output = document.createElement("output");
    const name = document.createElement("span");
    name.textContent = "T";
    input.setAttribute("aria-label", t("temperature"));
    head.append(name, input, output);
    slider(input, (value) => value.toFixed(2));
    input.addEventListener("input", () => { this.temperature = Number(input.value); });
    return head;
  }

  async #copy() {
    await navigator.clipboard.writeText(this.view.text);
    this.copy.textContent = t("copied");
    setTimeout(() => { this.copy.textContent = t("copy"); }, 1200);
  }

  /** Write anew; the prompt of so many tokens is shown as well. */
  begin(prompt, promptTokens) {
    this.view.clear();
    this.view.expectPrompt(promptTokens);
    return this.#run({ ...this.panel.asked(), prompt, echo: true });
  }

  /** Write on from where the text ended: the server's handle holds all that was read. */
  more() {
    const { label, guidance, ...rest } = this.panel.asked();
    return this.#run({ ...rest, session: this.session }, this.view.points.length);
  }

  /** Write on from another token than the one that came. */
  branch(before, token) {
    const prompt = before + token;
    this.view.add({ text: token, logprobs: { tokens: [token], token_logprobs: [null], top_logprobs: [null], text_offset: [[...before].length] } }, 0);
    return this.panel.watch(() => this.#run({ ...this.panel.asked(), prompt }));
  }

  stop() {
    this.abort?.abort();
  }

  /** Send a request and show what comes; its offsets count from `base`. */
  async #run(body, base = 0) {
    this.stop(); // one request a column: another could not be stopped any more
    const abort = new AbortController();
    this.abort = abort;
    this.root.classList.add("busy");
    this.session = null;
    this.facts.textContent = t("waiting");
    this.foot.hidden = false;
    const started = { time: 0, tokens: 0 };
    let tokens = 0;
    let end = null;
    try {
      for await (const found of stream("v1/completions", { ...body, temperature: this.temperature }, abort.signal)) {
        if (this.abort !== abort) return; // what is left of a text that gave way to another
        if (found.warnings?.length) this.panel.warn(found.warnings);
        const [piece] = found.choices;
        if (!piece) continue;
        tokens += this.view.add(piece, base);
        if (!started.time && tokens) Object.assign(started, { time: performance.now(), tokens });
        end = piece.finish_reason ?? end;
        this.session = piece.session ?? this.session;
        this.#say(tokens, started, end);
      }
    } catch (error) {
      if (error.name !== "AbortError") throw error;
      if (this.abort === abort) this.#say(tokens, started, "stopped");
    } finally {
      if (this.abort === abort) this.root.classList.remove("busy");
    }
  }

  /** What there is to say of the text. */
  #say(tokens, started, end) {
    const seconds = (performance.now() - started.time) / 1000;
    const rate = (tokens - started.tokens) / seconds;
    const bits = this.view.meanBits;
    const facts = [t("tokens", tokens)];
    if (seconds > 0.05 && rate > 0) facts.push(t("perSecond", Math.round(rate).toLocaleString()));
    if (bits !== null) facts.push(t("bits", bits.toFixed(2)));
    if (end === "stop") facts.push(t("ended"));
    if (end === "stopped") facts.push(t("stopped"));
    this.facts.textContent = facts.join(" · ");
    this.copy.textContent = t("copy");
  }
}

/** The panel of models that write. */
export class Write {
  constructor() {
    this.root = find("write");
    this.columns = [];
    this.running = 0;
    this.seed = 0; // of the texts that are shown: all of them have the same
    slider(find("temperature"), (value) => value.toFixed(2));
    slider(find("top-p"), (value) => value.toFixed(2));
    slider(find("length"), (value) => String(lengthOf(value)));
    this.dial = new Dial(find("dial"), find("dial-says"), () => this.columns.length && this.write());
    find("write-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.write();
    });
    find("stop").addEventListener("click", () => this.stop());
    find("more").addEventListener("click", () => this.more());
    find("shade").addEventListener("change", () => this.shade());
    find("four").addEventListener("change", () => this.layout());
    find("prompt").addEventListener("input", () => kept.set("prompt", this.prompt));
    addEventListener("keydown", (event) => {
      if (this.root.hidden) return;
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.write();
      if (event.key === "Escape") this.stop();
    });
    find("prompt").value = kept.get("prompt") ?? "";
    this.shade();
  }

  get four() {
    return find("four").checked;
  }

  get prompt() {
    return find("prompt").value;
  }

  /** Begin with a model. */
  use(model) {
    this.stop();
    this.model = model;
    this.columns = [];
    find("texts").replaceChildren();
    find("legend").hidden = find("more").hidden = true;
    find("dial-box").hidden = !model.labels.length;
    if (model.labels.length) this.dial.use(model.labels);
    showFault(find("write-fault"));
    showWarnings(find("write-warning"));
    this.layout();
  }

  leave() {
    this.stop();
  }

  redraw() {
    this.dial.show();
  }

  /** What every request asks for, but for its prompt and temperature. */
  asked() {
    return {
      model: this.model.id,
      max_tokens: lengthOf(find("length").value),
      top_p: Number(find("top-p").value),
      logprobs: 5,
      return_session: true,
      seed: this.seed,
      ...(this.model.labels.length ? this.dial.value : {}),
    };
  }

  /** Lay out one text or four. */
  layout() {
    this.stop();
    const temperatures = this.four ? TEMPERATURES : [Number(find("temperature").value)];
    find("temperature-row").hidden = this.four;
    this.columns = [];
    find("more").hidden = true;
    find("texts").classList.toggle("four", this.four);
    find("texts").replaceChildren();
    if (this.four) this.#columns(temperatures);
  }

  #columns(temperatures) {
    this.columns = temperatures.map((temperature) => new Column(this, temperature));
    find("texts").replaceChildren(...this.columns.map((column) => column.root));
  }

  async write() {
    if (!find("seed").checkValidity()) return find("seed").reportValidity();
    this.stop();
    if (!this.columns.length) this.#columns([0]);
    if (!this.four) this.columns[0].temperature = Number(find("temperature").value);
    showWarnings(find("write-warning"));
    const chosen = find("seed").value.trim();
    this.seed = chosen ? Number(chosen) : crypto.getRandomValues(new Uint32Array(1))[0];
    find("used-seed").textContent = `${t("seed")} ${this.seed}`;
    find("legend").hidden = false;
    const { model: { id: model }, prompt, columns } = this;
    const { signal } = (this.abort = new AbortController());
    return this.watch(async () => {
      const read = await call("tokenize", { model, prompt }, signal);
      if (!signal.aborted) await Promise.all(columns.map((column) => column.begin(prompt, read.count)));
    });
  }

  more() {
    const going = this.columns.filter((column) => column.session);
    return this.watch(() => Promise.all(going.map((column) => column.more())));
  }

  /** Show that something runs, until it has ended, and what went wrong. */
  async watch(work) {
    showFault(find("write-fault"));
    this.#count(1);
    try {
      await work();
    } catch (error) {
      if (error.name === "AbortError") return; // another may run already
      this.stop();
      showFault(find("write-fault"), error);
    } finally {
      this.#count(-1);
    }
  }

  #count(by) {
    this.running += by;
    find("stop").hidden = !this.running;
    find("more").hidden = this.running > 0 || !this.columns.some((column) => column.session);
  }

  stop() {
    this.abort?.abort();
    for (const column of this.columns) column.stop();
  }

  warn(warnings) {
    showWarnings(find("write-warning"), warnings);
  }

  shade() {
    this.root.classList.toggle("shaded", find("shade").checked);
  }
}

/** The slider of lengths doubles: 16, 23, 32, ..., 2048. */
function lengthOf(exponent) {
  return Math.round(2 ** exponent);
}
