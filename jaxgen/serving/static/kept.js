// What the browser remembers of this page, where it lets pages remember.

/** A storage whose faults are those of one that is empty. */
function safe(open) {
  return {
    get(name) {
      try { return open().getItem(`jaxgen.${name}`); } catch { return null; }
    },
    set(name, value) {
      try { open().setItem(`jaxgen.${name}`, value); } catch { /* it is forgotten */ }
    },
  };
}

export const kept = safe(() => localStorage);
export const keptUntilClosed = safe(() => sessionStorage);
