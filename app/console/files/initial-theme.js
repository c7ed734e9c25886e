// Set the theme before the first paint: the one the user chose, or the system's.
{
  let stored = null;
  try {
    stored = localStorage.getItem("nextchar.theme");
  } catch {
    // Storage is blocked: use the system's theme.
  }
  const isDark = stored ? stored === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
}
