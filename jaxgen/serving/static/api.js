// Calls of the service: JSON, and completions as they are made.

import { keptUntilClosed } from "./kept.js";
import { t } from "./words.js";

/** What the service says is wrong. */
export class Fault extends Error {}

const askedKey = document.getElementById("key");
let key = keptUntilClosed.get("key");

/** Ask for the key that the service wants. */
function askKey() {
  if (!askedKey.open) askedKey.showModal();
  return new Promise((resolve) => {
    askedKey.addEventListener("close", () => {
      key = document.getElementById("key-text").value;
      keptUntilClosed.set("key", key);
      resolve();
    }, { once: true });
  });
}

async function send(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const options = body === undefined ? { headers, signal } : { method: "POST", headers, signal, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault(t("unreachable"));
  }
  if (answer.status === 401) {
    await askKey();
    return send(path, body, signal);
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Fault(problem.detail ?? `${answer.status} ${answer.statusText}`);
  }
  return answer;
}

/** The JSON of an answer; posts where there is a body. */
export async function call(path, body, signal) {
  return (await send(path, body, signal)).json();
}

/** The objects of a stream of server-sent events, as they come. */
export async function* stream(path, body, signal) {
  const answer = await send(path, { ...body, stream: true }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Fault(t("cut"));
      buffer += value;
      const events = buffer.split("\n\n");
      buffer = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const found = JSON.parse(data);
        if (found.error) throw new Fault(found.error.message);
        yield found;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // however it ended, the connection is free
  }
}

/** Show what went wrong in an element, or hide it; a request that was taken back is no fault. */
export function showFault(element, error) {
  if (error?.name === "AbortError") return;
  if (error && !(error instanceof Fault)) console.error(error);
  element.textContent = error?.message ?? "";
  element.hidden = !error;
}

/** Show what the service warns of, if anything. */
export function showWarnings(element, warnings = []) {
  element.textContent = warnings.join(" ");
  element.hidden = !warnings.length;
}
