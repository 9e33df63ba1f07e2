// What the page says, in English and Korean.

import { kept } from "./kept.js";

export const words = {
  en: {
    skip: "Skip to the text", model: "Model", theme: "Light or dark",
    nothing: "No model is served here.",
    write: "Write", stop: "Stop", more: "Go on", prompt: "Prompt",
    promptHint: "How should the text begin?", any: "any",
    temperature: "Temperature", length: "Length", seed: "Seed",
    four: "Four temperatures", surprise: "Surprise",
    expected: "expected", surprising: "surprising",
    legendHelp: "Point at a character, or use the arrow keys, to see what else could have come.",
    likely: "What could have come here", branch: "go on with this",
    dial: "What to write about, and how strongly",
    dialHelp: "Around: what about. Outwards: how strongly. Also with the arrow keys.",
    free: "free", strength: "strength",
    text: "Text", classify: "Classify", sampleHint: "A text to classify",
    threshold: "Threshold", against: "against", for: "for",
    why: (label) => `The words for and against ${label}`,
    whyHelp: "How the log-odds change where the word is taken out.",
    translate: "Translate", translations: "Translations", sourceHint: "A text to translate",
    beam: "Beam", attention: "What each part was read from",
    map: (rows, columns) => `Attention of ${rows} tokens to ${columns} tokens of the source`,
    readFrom: (token, best) => `${token}: read from ${best}`,
    copy: "Copy", copied: "Copied", waiting: "waiting …", tokens: (count) => `${count} tokens`,
    perSecond: (rate) => `${rate} a second`, bits: (bits) => `${bits} bits each`, bit: "bits", ended: "ended by itself", stopped: "stopped",
    compiling: "getting ready …", keyNeeded: "This server asks for a key.", send: "Send",
    unreachable: "The server cannot be reached.", cut: "The answer was cut off.",
    tasks: {
      generate: "Models that write", predict: "Models that classify",
      translate: "Models that translate",
    },
  },
  ko: {
    skip: "본문으로 건너뛰기", model: "모델", theme: "밝게 또는 어둡게",
    nothing: "제공되는 모델이 없습니다.",
    write: "쓰기", stop: "멈춤", more: "이어 쓰기", prompt: "시작 글",
    promptHint: "글을 어떻게 시작할까요?", any: "무작위",
    temperature: "온도", length: "길이", seed: "시드",
    four: "네 가지 온도", surprise: "놀라움",
    expected: "예상대로", surprising: "뜻밖",
    legendHelp: "글자를 가리키거나 화살표 키를 누르면 그 자리에 올 수 있었던 글자가 보입니다.",
    likely: "이 자리에 올 수 있었던 것", branch: "이것으로 이어 쓰기",
    dial: "무엇을 얼마나 강하게 쓸지",
    dialHelp: "둘레는 주제, 바깥쪽일수록 강하게. 화살표 키로도 움직입니다.",
    free: "자유롭게", strength: "세기",
    text: "글", classify: "분류", sampleHint: "분류할 글",
    threshold: "기준값", against: "반대", for: "찬성",
    why: (label) => `‘${label}’ 판단에 영향을 준 낱말`,
    whyHelp: "낱말을 뺐을 때 로그 오즈가 얼마나 달라지는지 보여 줍니다.",
    translate: "번역", translations: "번역 결과", sourceHint: "번역할 글",
    beam: "빔", attention: "각 부분을 어디에서 읽었는지",
    map: (rows, columns) => `토큰 ${rows}개가 원문 토큰 ${columns}개를 본 정도`,
    readFrom: (token, best) => `${token}: ${best}에서 읽음`,
    copy: "복사", copied: "복사됨", waiting: "기다리는 중 …", tokens: (count) => `토큰 ${count}개`,
    perSecond: (rate) => `초당 ${rate}개`, bits: (bits) => `평균 ${bits}비트`, bit: "비트", ended: "스스로 끝남", stopped: "멈춤",
    compiling: "준비 중 …", keyNeeded: "이 서버는 키가 필요합니다.", send: "보내기",
    unreachable: "서버에 연결할 수 없습니다.", cut: "답이 중간에 끊겼습니다.",
    tasks: {
      generate: "글을 쓰는 모델", predict: "분류하는 모델", translate: "번역하는 모델",
    },
  },
};

const chosen = kept.get("language");
let language = chosen in words ? chosen : navigator.language.startsWith("ko") ? "ko" : "en";
const listeners = [];

/** A word, or what a function of words makes of its arguments. */
export function t(name, ...values) {
  const word = words[language][name];
  return typeof word === "function" ? word(...values) : word;
}

/** Call a function now and whenever the language changes. */
export function onLanguage(listener) {
  listeners.push(listener);
  listener();
}

/** The other language's name, in that language. */
export const other = () => (language === "en" ? { code: "ko", name: "한국어" } : { code: "en", name: "English" });

/** Say everything in the other language. */
export function switchLanguage() {
  language = other().code;
  kept.set("language", language);
  for (const listener of listeners) listener();
}

/** Put the words into the elements that ask for some. */
export function fillWords() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
  for (const element of document.querySelectorAll("[data-t-placeholder]")) element.placeholder = t(element.dataset.tPlaceholder);
}
