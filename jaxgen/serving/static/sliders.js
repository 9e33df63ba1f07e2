// Sliders that show their value, also as their filled part.

/**
 * Show the value of a slider beside it.
 * @param {HTMLInputElement} input inside a label with an <output>
 * @param {(value: number) => string} say the value in words
 * @returns {() => void} shows it anew
 */
export function slider(input, say = String) {
  const output = input.parentElement.querySelector("output");
  const show = () => {
    const share = (input.value - input.min) / (input.max - input.min);
    input.style.setProperty("--share", share.toFixed(4));
    output.textContent = say(Number(input.value));
  };
  input.addEventListener("input", show);
  show();
  return show;
}

/** Call a function when nothing has happened for some milliseconds. */
export function debounced(wait, act) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, wait);
  };
}
