/** Dark and light: the system's choice until one is made here. `initial-theme.js` sets it before the first paint. */

/** Let `button` switch the theme, and follow the system as long as it has not. @param {HTMLElement} button */
export function themeButton(button) {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const set = (theme) => {
    root.dataset.theme = theme;
    button.setAttribute("aria-pressed", String(theme === "dark"));
  };
  set(root.dataset.theme);
  button.addEventListener("click", () => {
    const theme = root.dataset.theme === "dark" ? "light" : "dark";
    set(theme);
    keep(theme);
  });
  system.addEventListener("change", () => {
    if (!kept()) set(system.matches ? "dark" : "light");
  });
}

function keep(theme) {
  try {
    localStorage.setItem("nextchar.theme", theme);
  } catch {
    // Storage is blocked: it holds until the page is left.
  }
}

function kept() {
  try {
    return localStorage.getItem("nextchar.theme");
  } catch {
    return null;
  }
}
