// For other sites: one script tag puts the chat where it stands.
//   <script src="https://chat.example/static/embed.js" data-title="Help" data-height="560" data-accent="#7a1f5a"></script>
// It makes one frame and touches nothing else; the chat inside checks each theme value again (theme.js).
(() => {
  "use strict";
  const script = document.currentScript;
  if (!script) return;
  const page = new URL("index.html", script.src);
  const theme = new URLSearchParams();
  for (const name of ["accent", "background", "surface", "text", "radius"]) {
    if (script.dataset[name]) theme.set(name, script.dataset[name]);
  }
  page.hash = theme.toString();
  const height = /^[0-9]{2,4}$/.test(script.dataset.height || "") ? script.dataset.height : "560";
  const frame = document.createElement("iframe");
  frame.src = page.href;
  frame.title = script.dataset.title || "Chat";
  frame.loading = "lazy";
  frame.referrerPolicy = "no-referrer";
  frame.style.border = "0";
  frame.style.width = "100%";
  frame.style.maxWidth = "100%";
  frame.style.height = `${height}px`;
  script.insertAdjacentElement("afterend", frame);
})();
