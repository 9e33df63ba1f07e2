// Models that classify: probabilities as bars, and the words that decided.

import { call, showFault, showWarnings } from "./api.js";
import { kept } from "./kept.js";
import { debounced, slider } from "./sliders.js";
import { t } from "./words.js";

const find = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share > 0.0995 && share < 0.9995 ? 0 : 1)} %`;

/** The panel of models that classify. */
export class Classify {
  constructor() {
    this.root = find("classify");
    this.showThreshold = slider(find("threshold"), (value) => value.toFixed(2));
    const soon = debounced(160, () => this.ask());
    find("sample").addEventListener("input", () => {
      kept.set("sample", find("sample").value);
      soon();
    });
    find("sample").value = kept.get("sample") ?? "";
    find("threshold").addEventListener("input", () => {
      this.threshold = Number(find("threshold").value);
      soon();
    });
  }

  /** Begin with a model. */
  use(model) {
    this.model = model;
    this.threshold = this.label = null;
    find("threshold-row").hidden = model.labels.length > 2 && !model.multi_label;
    find("bars").replaceChildren();
    this.bars = new Map(model.labels.map((label) => [label, this.#bar(label)]));
    find("bars").classList.toggle("limited", !find("threshold-row").hidden);
    this.clear();
    this.ask();
  }

  leave() {
    this.abort?.abort();
  }

  redraw() {
    if (this.found) this.show(this.found);
  }

  clear() {
    this.found = null;
    find("verdict").textContent = "";
    find("why").hidden = true;
    for (const bar of this.bars.values()) this.#fill(bar, 0, "");
  }

  async ask() {
    this.abort?.abort();
    this.abort = new AbortController();
    const text = find("sample").value;
    showFault(find("classify-fault"));
    if (!text.trim()) return this.clear();
    const body = { model: this.model.id, input: text, explain: true };
    if (this.threshold !== null) body.threshold = this.threshold;
    if (this.label !== null) body.label = this.label;
    try {
      const found = await call("v1/classify", body, this.abort.signal);
      this.show({ text, ...found });
    } catch (error) {
      showFault(find("classify-fault"), error);
    }
  }

  show(found) {
    this.found = found;
    const [one] = found.data;
    if (this.threshold === null) {
      find("threshold").value = found.threshold;
      this.showThreshold();
    }
    showWarnings(find("classify-warning"), found.warnings);
    find("verdict").textContent = one.labels.join(", ") || "—";
    find("bars").style.setProperty("--limit", found.threshold);
    for (const [label, bar] of this.bars) {
      const share = one.probabilities[label];
      this.#fill(bar, share, percent(share));
      bar.classList.toggle("chosen", one.labels.includes(label));
      bar.setAttribute("aria-pressed", String(one.explanation.label === label));
    }
    this.#words(found.text, one.explanation);
  }

  #bar(label) {
    const bar = document.createElement("button");
    const parts = ["name", "track", "share"].map((name) => {
      const part = document.createElement("span");
      part.className = name;
      return part;
    });
    parts[0].textContent = label;
    parts[1].append(document.createElement("i"));
    bar.append(...parts);
    bar.title = t("why", label);
    bar.addEventListener("click", () => {
      this.label = label;
      this.ask();
    });
    find("bars").append(bar);
    return bar;
  }

  #fill(bar, share, said) {
    bar.style.setProperty("--p", share.toFixed(4));
    bar.querySelector(".share").textContent = said;
  }

  /** The text with its words shaded by what they did for the label. */
  #words(text, explanation) {
    const points = [...text];
    const largest = Math.max(...explanation.words.map((word) => Math.abs(word.weight)), 1e-9);
    const nodes = [];
    let end = 0;
    for (const word of explanation.words) {
      nodes.push(points.slice(end, word.start).join(""));
      const span = document.createElement("span");
      const share = word.weight / largest;
      span.textContent = word.word;
      span.title = `${word.weight > 0 ? "+" : ""}${word.weight.toFixed(2)}`;
      span.className = share > 0 ? "for" : "against";
      span.style.setProperty("--s", Math.abs(share).toFixed(3));
      nodes.push(span);
      end = word.stop;
    }
    find("words").replaceChildren(...nodes, points.slice(end).join(""));
    find("why-title").textContent = t("why", explanation.label);
    find("why").hidden = false;
  }
}
