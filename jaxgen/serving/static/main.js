// The models there are, the one that is chosen, and how the page looks and speaks.

import { call } from "./api.js";
import { Classify } from "./classify.js";
import { kept } from "./kept.js";
import { Translate } from "./translate.js";
import { fillWords, onLanguage, other, switchLanguage, t } from "./words.js";
import { Write } from "./write.js";

const POLL = { ready: 15000, waiting: 700 };
const select = document.getElementById("model");
const state = document.getElementById("model-state");
const nothing = document.getElementById("nothing");
const commands = {
  "POST /v1/completions": "generate", "POST /v1/classify": "predict", "POST /v1/translate": "translate",
};
const panels = { generate: new Write(), predict: new Classify(), translate: new Translate() };

let models = [];
let shown = null;
let timer = 0;

const commandOf = (model) => commands[model.endpoint];
const wanted = () => decodeURIComponent(location.hash.slice(1));

/** List the models by what they do. */
function fillSelect() {
  const groups = Object.keys(panels).map((command) => {
    const group = document.createElement("optgroup");
    group.label = t("tasks")[command];
    for (const model of models.filter((one) => commandOf(one) === command)) {
      group.append(new Option(model.id, model.id, false, model.id === shown?.id));
    }
    return group;
  });
  select.replaceChildren(...groups.filter((group) => group.children.length));
}

/** Show the panel of a model. */
function show(model) {
  const changed = model?.id !== shown?.id || model?.fingerprint !== shown?.fingerprint;
  shown = model;
  nothing.hidden = Boolean(model);
  select.parentElement.hidden = !model;
  state.textContent = model && !model.ready ? t("compiling") : "";
  if (!model || !changed) return;
  document.title = `${model.id} · jaxgen`;
  select.value = model.id;
  for (const [command, panel] of Object.entries(panels)) {
    const own = command === commandOf(model);
    panel.root.hidden = !own;
    if (own) panel.use(model);
    else panel.leave();
  }
}

/** Ask which models there are, again and again: one may be trained, or be getting ready. */
async function poll() {
  clearTimeout(timer);
  try {
    const found = (await call("v1/models")).data.filter((model) => commandOf(model));
    const before = models.map((model) => model.id).join("\n");
    models = found;
    if (before !== models.map((model) => model.id).join("\n")) fillSelect();
    show(models.find((model) => model.id === (wanted() || shown?.id)) ?? models[0]);
  } catch (error) {
    state.textContent = error.message;
  }
  timer = setTimeout(poll, shown?.ready ? POLL.ready : POLL.waiting);
}

select.addEventListener("change", () => {
  history.replaceState(null, "", `#${encodeURIComponent(select.value)}`);
  show(models.find((model) => model.id === select.value));
});
addEventListener("hashchange", poll);
addEventListener("focus", poll);

const themes = matchMedia("(prefers-color-scheme: dark)");
/** The theme that was chosen, or that of the system. */
function showTheme() {
  document.documentElement.dataset.theme = kept.get("theme") ?? (themes.matches ? "dark" : "light");
  for (const panel of Object.values(panels)) panel.redraw?.();
}
document.getElementById("theme").addEventListener("click", () => {
  kept.set("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  showTheme();
});
themes.addEventListener("change", showTheme);

const language = document.getElementById("language");
language.addEventListener("click", switchLanguage);
onLanguage(() => {
  fillWords();
  language.textContent = other().name;
  language.lang = other().code;
  fillSelect();
  state.textContent = shown && !shown.ready ? t("compiling") : "";
  for (const panel of Object.values(panels)) panel.redraw?.();
});

showTheme();
poll();
