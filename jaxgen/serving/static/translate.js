// Models that translate: the best translations, and what each part of one was read from.

import { call, showFault, showWarnings } from "./api.js";
import { kept } from "./kept.js";
import { debounced, slider } from "./sliders.js";
import { visible } from "./surprise.js";
import { t } from "./words.js";

const find = (id) => document.getElementById(id);
const SHOWN = 4;

/** The panel of models that translate. */
export class Translate {
  constructor() {
    this.root = find("translate");
    const soon = debounced(300, () => this.ask());
    slider(find("beam"));
    find("source").addEventListener("input", () => {
      kept.set("source", find("source").value);
      soon();
    });
    find("beam").addEventListener("input", soon);
    find("source").value = kept.get("source") ?? "";
    find("aligned-target").addEventListener("keydown", (event) => this.#key(event));
    find("map").addEventListener("pointermove", (event) => this.#pointAtMap(event));
    find("map").addEventListener("pointerleave", () => this.look(-1));
    addEventListener("resize", debounced(100, () => this.redraw()));
  }

  /** Begin with a model. */
  use(model) {
    this.model = model;
    this.found = null;
    find("best").replaceChildren();
    find("attention").hidden = true;
    this.ask();
  }

  leave() {
    this.abort?.abort();
  }

  redraw() {
    if (this.found) this.choose(this.chosen);
  }

  async ask() {
    this.abort?.abort();
    this.abort = new AbortController();
    const input = find("source").value;
    const beam = Number(find("beam").value);
    showFault(find("translate-fault"));
    if (!input.trim()) {
      this.found = null;
      find("attention").hidden = true;
      return find("best").replaceChildren();
    }
    const attention = this.model.attention ?? false;
    const body = { model: this.model.id, input, beam_size: beam, n_best: Math.min(SHOWN, beam), attention };
    this.root.classList.add("busy");
    try {
      const found = await call("v1/translate", body, this.abort.signal);
      showWarnings(find("translate-warning"), found.warnings);
      [this.found] = found.data;
      this.#list();
      this.choose(0);
    } catch (error) {
      showFault(find("translate-fault"), error);
    }
    this.root.classList.remove("busy");
  }

  /** The translations, best first, one of them chosen. */
  #list() {
    const rows = this.found.translations.map((one, i) => {
      const row = document.createElement("label");
      const radio = Object.assign(document.createElement("input"), { type: "radio", name: "best", value: i });
      const text = document.createElement("span");
      const score = document.createElement("small");
      text.textContent = one.text || "∅";
      score.textContent = one.score.toFixed(2).replace(/^-0.00$/, "0.00");
      radio.addEventListener("change", () => this.choose(i));
      row.append(radio, text, score);
      return row;
    });
    find("best").replaceChildren(...rows);
  }

  choose(i) {
    this.chosen = i;
    const one = this.found.translations[i];
    find("best").querySelectorAll("input")[i].checked = true;
    find("attention").hidden = !one.attention?.length;
    if (!one.attention?.length) return;
    const spans = (tokens) => tokens.map((token) => {
      const span = document.createElement("span");
      span.textContent = visible(token);
      return span;
    });
    this.targets = spans(one.tokens);
    this.sources = spans(this.found.source_tokens);
    this.targets.forEach((span, row) => {
      span.addEventListener("pointerenter", () => this.look(row));
      span.addEventListener("pointerleave", () => this.look(-1));
      span.addEventListener("click", () => this.look(row));
      const weights = one.attention[row];
      const best = visible(this.found.source_tokens[weights.indexOf(Math.max(...weights))]);
      span.setAttribute("aria-label", t("readFrom", visible(one.tokens[row]), best));
    });
    find("aligned-target").replaceChildren(...this.targets);
    find("aligned-source").replaceChildren(...this.sources);
    this.look(-1);
  }

  /** Shade the source by what one token of the translation was read from; -1 is none. */
  look(row) {
    this.row = row;
    const { attention } = this.found.translations[this.chosen];
    this.targets.forEach((span, i) => span.classList.toggle("current", i === row));
    this.sources.forEach((span, i) => span.style.setProperty("--s", row < 0 ? 0 : attention[row][i].toFixed(3)));
    draw(find("map"), attention, this.found.translations[this.chosen].tokens, this.found.source_tokens, row);
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !this.found) return;
    event.preventDefault();
    this.look((this.row + step + this.targets.length) % this.targets.length);
  }

  #pointAtMap(event) {
    const box = find("map").getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top - find("map").names.top) / find("map").cell);
    this.look(row >= 0 && row < this.targets.length ? row : -1);
  }
}

const FONT = 12;
const LETTER = 0.61 * FONT; // of a monospaced font
const LONGEST = 9; // characters of a name

function named(token) {
  const shown = visible(token);
  return shown.length > LONGEST ? `${shown.slice(0, LONGEST - 1)}…` : shown;
}

/** Room for the names beside the grid and above it, where single characters stand upright. */
function roomFor(targets, sources) {
  const longest = (tokens) => Math.max(...tokens.map((token) => [...named(token)].length));
  const above = longest(sources);
  return { left: Math.ceil(longest(targets) * LETTER) + 12, top: above === 1 ? 22 : Math.ceil(above * LETTER) + 12, upright: above === 1 };
}

/** Draw the weights as a grid: the source from left to right, the translation downwards. */
function draw(canvas, attention, targets, sources, current) {
  const names = roomFor(targets, sources);
  const room = canvas.parentElement.clientWidth - names.left - 1;
  const cell = Math.min(Math.max(Math.floor(room / sources.length), 12), 26);
  const width = names.left + cell * sources.length;
  const height = names.top + cell * targets.length;
  const scale = devicePixelRatio;
  Object.assign(canvas, { cell, names });
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.setAttribute("aria-label", t("map", targets.length, sources.length));
  const look = getComputedStyle(canvas);
  const [ink, accent, faint] = ["--ink", "--accent", "--line"].map((name) => look.getPropertyValue(name));
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.font = `${FONT}px ui-monospace, monospace`;
  pen.textBaseline = "middle";
  targets.forEach((token, row) => {
    const y = names.top + row * cell;
    pen.globalAlpha = current < 0 || row === current ? 1 : 0.35;
    pen.fillStyle = ink;
    pen.textAlign = "right";
    pen.fillText(named(token), names.left - 6, y + cell / 2);
    attention[row].forEach((weight, column) => {
      const x = names.left + column * cell;
      const before = pen.globalAlpha;
      pen.fillStyle = faint;
      pen.globalAlpha = before * 0.55;
      pen.fillRect(x, y, cell - 1, cell - 1);
      pen.globalAlpha = before * weight;
      pen.fillStyle = accent;
      pen.fillRect(x, y, cell - 1, cell - 1);
      pen.globalAlpha = before;
    });
  });
  pen.globalAlpha = 1;
  pen.fillStyle = ink;
  pen.textAlign = "left";
  sources.forEach((token, column) => {
    pen.save();
    pen.translate(names.left + (column + 0.5) * cell, names.top - 6);
    if (!names.upright) pen.rotate(-Math.PI / 2);
    pen.textAlign = names.upright ? "center" : "left";
    pen.fillText(named(token), 0, names.upright ? -4 : 0);
    pen.restore();
  });
}
