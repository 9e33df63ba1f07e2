// A text whose characters are shaded by how little the model expected them.

import { t } from "./words.js";

const SHADED = { from: 1, to: 9 }; // bits
const box = document.getElementById("likely");
let open = null; // the view that the box belongs to

export const bitsOf = (logprob) => -logprob / Math.LN2;
const shadeOf = (bits) => Math.min(Math.max((bits - SHADED.from) / (SHADED.to - SHADED.from), 0), 1);
/** A token as it can be seen: blanks and line ends as signs. */
export const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";

/** A text that grows, token by token. */
export class SurpriseView {
  /**
   * @param {HTMLElement} root where the text is shown
   * @param {(before: string, token: string) => void} onBranch called when another token is chosen
   */
  constructor(root, onBranch) {
    this.root = root;
    this.onBranch = onBranch;
    root.tabIndex = 0;
    root.classList.add("surprise");
    root.addEventListener("pointerover", (event) => this.#point(event));
    root.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && !this.pinned && this.close());
    root.addEventListener("click", (event) => this.#pin(event.target));
    root.addEventListener("keydown", (event) => this.#key(event));
    root.addEventListener("blur", (event) => !box.contains(event.relatedTarget) && this.close());
    this.clear();
  }

  clear() {
    this.close();
    this.points = []; // the characters: offsets count these
    this.tokens = [];
    this.current = -1;
    this.promptLeft = 0;
    this.root.replaceChildren();
  }

  get text() {
    return this.points.join("");
  }

  /** Bits a token of what was written, of those tokens that have a log-probability. */
  get meanBits() {
    const own = this.tokens.filter((one) => !one.prompt && one.logprob !== null);
    return own.length ? bitsOf(own.reduce((sum, one) => sum + one.logprob, 0) / own.length) : null;
  }

  /** So many tokens of the prompt come first. */
  expectPrompt(count) {
    this.promptLeft = count;
  }

  /** Keep the text before a token alone. */
  cut(index) {
    this.close();
    this.points.length = this.tokens[index].start;
    for (const token of this.tokens.splice(index)) token.span.remove();
    this.current = -1;
  }

  /**
   * Append a piece of a choice.
   * @param {{text: string, logprobs: object | null}} piece
   * @param {number} base what its offsets count from
   * @returns {number} tokens that were written
   */
  add(piece, base) {
    const known = piece.logprobs;
    const first = this.tokens.length;
    let written = 0;
    this.points.push(...piece.text);
    for (let i = 0; i < (known?.tokens.length ?? 0); i++) {
      const start = base + known.text_offset[i];
      const last = this.tokens.at(-1);
      const prompt = this.promptLeft > 0;
      if (prompt) this.promptLeft--;
      else written++;
      if (last && last.start >= start) { // a part of the same character
        last.logprob += known.token_logprobs[i] ?? 0;
        continue;
      }
      const span = document.createElement("span");
      const token = {
        start, span, prompt, logprob: known.token_logprobs[i], top: known.top_logprobs?.[i] ?? null,
      };
      span.token = this.tokens.length;
      span.classList.toggle("prompt", prompt);
      this.tokens.push(token);
      this.root.append(span);
    }
    for (let i = Math.max(first - 1, 0); i < this.tokens.length; i++) this.#fill(i);
    return written;
  }

  close() {
    this.pinned = false;
    if (open === this) {
      box.hidden = true;
      open = null;
    }
    this.tokens?.[this.current]?.span.classList.remove("current");
  }

  #fill(index) {
    const token = this.tokens[index];
    const stop = this.tokens[index + 1]?.start ?? this.points.length;
    token.span.textContent = this.points.slice(token.start, stop).join("");
    const bits = token.logprob === null ? 0 : bitsOf(token.logprob);
    token.span.style.setProperty("--s", shadeOf(bits).toFixed(3));
  }

  #indexOf(target) {
    return target.token === undefined ? -1 : target.token;
  }

  #point(event) {
    const index = this.#indexOf(event.target);
    if (index >= 0 && event.pointerType === "mouse" && !this.pinned) this.#show(index);
  }

  #pin(target) {
    const index = this.#indexOf(target);
    if (index < 0) return;
    this.#show(index);
    this.pinned = true;
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (step !== undefined && this.tokens.length) {
      event.preventDefault();
      const from = this.current < 0 ? (step < 0 ? this.tokens.length : -1) : this.current;
      this.#show(Math.min(Math.max(from + step, 0), this.tokens.length - 1));
      this.pinned = true;
    } else if (event.key === "Enter" && open === this) {
      event.preventDefault();
      box.querySelector("button")?.focus();
    } else if (event.key === "Escape" && open === this) {
      event.stopPropagation();
      this.close();
    }
  }

  /** Open the box with what else could have come. */
  #show(index) {
    open?.close();
    open = this;
    this.current = index;
    const token = this.tokens[index];
    token.span.classList.add("current");
    const head = document.createElement("p");
    const sign = document.createElement("b");
    sign.textContent = visible(token.span.textContent);
    head.append(sign, token.logprob === null ? "" : ` ${bitsOf(token.logprob).toFixed(1)} ${t("bit")}`);
    box.replaceChildren(head, ...this.#alternatives(token, index));
    box.setAttribute("aria-label", t("likely"));
    box.hidden = false;
    place(token.span);
  }

  #alternatives(token, index) {
    const before = this.points.slice(0, token.start).join("");
    const sorted = Object.entries(token.top ?? {}).sort((a, b) => b[1] - a[1]);
    return sorted.map(([text, logprob]) => {
      const button = document.createElement("button");
      const share = Math.exp(logprob);
      button.type = "button";
      button.title = t("branch");
      button.style.setProperty("--p", share.toFixed(4));
      const name = document.createElement("span");
      name.textContent = visible(text);
      const number = document.createElement("small");
      number.textContent = `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
      button.append(name, number);
      button.disabled = token.prompt || text.startsWith("bytes:");
      button.addEventListener("click", () => {
        this.cut(index);
        this.root.focus();
        this.onBranch(before, text);
      });
      return button;
    });
  }
}

/** Put the box below a token, or above it where there is no room. */
function place(span) {
  const at = span.getClientRects()[0] ?? span.getBoundingClientRect();
  const own = box.getBoundingClientRect();
  const left = Math.min(Math.max(at.left - 12, 8), innerWidth - own.width - 8);
  const below = at.bottom + 6;
  const top = below + own.height > innerHeight - 8 ? Math.max(at.top - own.height - 6, 8) : below;
  box.style.left = `${left}px`;
  box.style.top = `${top}px`;
}

box.addEventListener("keydown", (event) => {
  const buttons = [...box.querySelectorAll("button:enabled")];
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (step) {
    event.preventDefault();
    buttons.at((buttons.indexOf(document.activeElement) + step) % buttons.length)?.focus();
  } else if (event.key === "Escape") {
    event.stopPropagation();
    const view = open;
    view?.close();
    view?.root.focus();
  }
});
addEventListener("scroll", () => open?.close(), { passive: true });
document.addEventListener("pointerdown", (event) => {
  if (open && !box.contains(event.target) && !open.root.contains(event.target)) open.close();
});
