/** The dark or light theme: the system's until the user chooses. `initial-theme.js` sets it before the first paint. */

/** Make `button` toggle the theme; follow the system until it is pressed. @param {HTMLElement} button */
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
    store(theme);
  });
  system.addEventListener("change", () => {
    if (!stored()) set(system.matches ? "dark" : "light");
  });
}

function store(theme) {
  try {
    localStorage.setItem("nextchar.theme", theme);
  } catch {
    // Storage is blocked: the choice lasts until the page is closed.
  }
}

function stored() {
  try {
    return localStorage.getItem("nextchar.theme");
  } catch {
    return null;
  }
}
