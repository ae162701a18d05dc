// Colours and corners that a site which frames the chat may set, each checked; what cannot be read is left out.

const COLOUR = /^#[0-9a-fA-F]{6}$/;
// WCAG 2.2, 1.4.3: ordinary text.
const CONTRAST_MIN = 4.5;

const luminance = (colour) => {
  const channel = (at) => {
    const value = parseInt(colour.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  };
  return 0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5);
};

const contrast = (one, other) => {
  const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
};

// The values of `#accent=%23aabbcc&radius=4` that hold.
export const themeOf = (hash) => {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const theme = {};
  for (const name of ["accent", "background", "surface", "text"]) {
    if (COLOUR.test(given.get(name) ?? "")) theme[name] = given.get(name);
  }
  if (/^([0-9]|[12][0-9]|3[0-2])$/.test(given.get("radius") ?? "")) theme.radius = `${given.get("radius")}px`;
  return theme;
};

export const applyTheme = (hash) => {
  const theme = themeOf(hash);
  const style = document.documentElement.style;
  const now = (name) => theme[name] ?? getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const legible = ["background", "surface"].every((name) => !COLOUR.test(now(name)) || contrast(now("text"), now(name)) >= CONTRAST_MIN);
  if (legible) {
    for (const name of ["background", "surface", "text"]) {
      if (theme[name]) style.setProperty(`--${name}`, theme[name]);
    }
    if (theme.text) style.setProperty("--muted", theme.text);
  }
  if (theme.accent) {
    style.setProperty("--accent", theme.accent);
    style.setProperty("--on-accent", contrast("#ffffff", theme.accent) >= CONTRAST_MIN ? "#ffffff" : "#000000");
  }
  if (theme.radius) style.setProperty("--radius", theme.radius);
};
