// The dial of a model with labels: around it what to write about, outwards how strongly.

import { t } from "./words.js";

const STRONGEST = 3; // guidance at the rim
const FREE = 0.08; // nearer to the centre there is no label
const SNAP = 0.14; // of the way to a neighbour: the label alone
const STEP = { angle: Math.PI / 12, radius: 1 / 12 };

/** A point on a disc, as what a request asks for. */
export class Dial {
  /**
   * @param {HTMLElement} root holds `.ring` and `.handle`
   * @param {HTMLElement} says where the value stands in words
   * @param {() => void} onChange called when the point was moved and let go
   */
  constructor(root, says, onChange) {
    Object.assign(this, { root, says, onChange, labels: [], angle: 0, radius: 0 });
    this.handle = root.querySelector(".handle");
    this.ring = root.querySelector(".ring");
    root.addEventListener("pointerdown", (event) => {
      root.setPointerCapture(event.pointerId);
      this.#move(event);
    });
    root.addEventListener("pointermove", (event) => root.hasPointerCapture(event.pointerId) && this.#move(event));
    root.addEventListener("pointerup", () => this.onChange());
    root.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Begin at the centre with the labels of a model. */
  use(labels) {
    this.labels = labels;
    this.radius = 0;
    this.angle = -Math.PI / 2;
    const step = 360 / labels.length;
    const hues = labels.map((_, i) => `oklch(var(--dial-l) 0.13 ${(i * step + 20) % 360})`);
    const stops = [...hues, hues[0]].map((hue, i) => `${hue} ${i * step}deg`);
    this.root.style.setProperty("--hues", stops.join(", "));
    this.ring.replaceChildren(...labels.map((label, i) => {
      const name = document.createElement("span");
      const angle = this.#angleOf(i);
      name.textContent = label;
      name.style.left = `${50 + 58 * Math.cos(angle)}%`;
      name.style.top = `${50 + 58 * Math.sin(angle)}%`;
      name.classList.toggle("left", Math.cos(angle) < -0.2);
      name.classList.toggle("right", Math.cos(angle) > 0.2);
      name.addEventListener("pointerdown", (event) => {
        event.stopPropagation();
        this.angle = angle;
        this.radius = Math.max(this.radius, 0.5);
        this.show();
        this.onChange();
      });
      name.addEventListener("pointerup", (event) => event.stopPropagation()); // the press was told
      return name;
    }));
    this.show();
  }

  /** The fields of a request: none at the centre. */
  get value() {
    const shares = this.#shares();
    if (!shares.length) return {};
    const label = shares.length === 1 ? shares[0].label : shares.map((one) => `${one.label}=${one.share.toFixed(2)}`).join(",");
    return this.strength === 1 ? { label } : { label, guidance: this.strength };
  }

  get strength() {
    const strength = Math.round(this.radius * STRONGEST * 10) / 10;
    return Math.abs(strength - 1) <= 0.1 ? 1 : strength;
  }

  show() {
    const { angle, radius } = this;
    this.handle.style.left = `${50 + 50 * radius * Math.cos(angle)}%`;
    this.handle.style.top = `${50 + 50 * radius * Math.sin(angle)}%`;
    const shares = this.#shares();
    const names = [...this.ring.children];
    for (const name of names) name.classList.toggle("on", shares.some((one) => one.label === name.textContent));
    const said = shares.map((one) => (shares.length === 1 ? one.label : `${one.label} ${Math.round(100 * one.share)} %`));
    this.says.textContent = shares.length ? `${said.join(", ")}\n${t("strength")} ${this.strength.toFixed(1)}` : t("free");
  }

  #angleOf(i) {
    return (2 * Math.PI * i) / this.labels.length - Math.PI / 2;
  }

  /** The labels that the point lies between, with their shares. */
  #shares() {
    const { labels, radius } = this;
    if (radius < FREE || !labels.length) return [];
    const turns = (this.angle + Math.PI / 2) / (2 * Math.PI);
    const place = (turns - Math.floor(turns)) * labels.length;
    const low = Math.floor(place) % labels.length;
    const high = (low + 1) % labels.length;
    const share = place - Math.floor(place);
    const blends = !/[,=]/.test(labels[low] + labels[high]) && low !== high;
    if (share < SNAP || (!blends && share < 0.5)) return [{ label: labels[low], share: 1 }];
    if (share > 1 - SNAP || !blends) return [{ label: labels[high], share: 1 }];
    return [{ label: labels[low], share: 1 - share }, { label: labels[high], share }];
  }

  #move(event) {
    const box = this.root.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width - 0.5;
    const y = (event.clientY - box.top) / box.height - 0.5;
    this.radius = Math.min(2 * Math.hypot(x, y), 1);
    this.angle = Math.atan2(y, x);
    this.show();
  }

  #key(event) {
    const turn = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const grow = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (turn) {
      this.angle += turn * STEP.angle;
      if (this.radius < FREE) this.radius = 1 / STRONGEST;
    } else if (grow) this.radius = Math.min(Math.max(this.radius + grow * STEP.radius, 0), 1);
    else if (event.key === "Home") this.radius = 0;
    else return;
    event.preventDefault();
    this.show();
  }
}
