// Before the first paint: the theme that was chosen here, or else the system's.
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("nextchar.theme");
  } catch {
    // Storage is blocked: the system's theme will do.
  }
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}
