// What a conversation looks like. Every word of a person, a model or a tool goes through `textContent`, and nothing else.

const PHASES = { started: "is at work…", done: "done", failed: "did not work", waits: "waits for you", waits_for_operator: "waits for somebody to approve it" };
const NAMES = { person: "You", step: "Tool", note: "Note" };
// How near to its end the list has to be to follow what is added.
const NEAR_PX = 120;

export const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

const button = (text, className, click) => {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", click);
  return made;
};

// A button that can be reached and read, and does nothing.
export const disable = (made, off) => {
  if (off) made.setAttribute("aria-disabled", "true");
  else made.removeAttribute("aria-disabled");
};
export const disabled = (made) => made.getAttribute("aria-disabled") === "true";

export class View {
  constructor() {
    this.log = document.getElementById("log");
    this.scroller = document.getElementById("scroll");
    this.agent = "Agent";
  }

  add(parts) {
    this.grow(this.log, ...parts);
  }

  // Adds to a part and, where the end was in sight, keeps it there.
  grow(to, ...parts) {
    const near = this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight < NEAR_PX;
    to.append(...parts);
    if (near) this.toEnd();
  }

  toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    if (getComputedStyle(this.scroller).overflowY === "visible") this.log.lastElementChild?.scrollIntoView({ block: "end" });
  }

  // A whole conversation at once; gives what each line became. It is not read out: it was, or it is old.
  replaceAll(lines) {
    this.log.setAttribute("aria-live", "off");
    const roots = lines.map((line) => this.message(line.who, line.text).root);
    this.log.replaceChildren(...roots);
    this.toEnd();
    requestAnimationFrame(() => this.log.setAttribute("aria-live", "polite"));
    return roots;
  }

  message(who, text) {
    const root = element("div", `message ${who}`);
    const body = element("p", "text", text);
    root.append(element("p", "who", NAMES[who] ?? this.agent), body);
    return { root, body };
  }

  line(who, text) {
    const made = this.message(who, text);
    this.add([made.root]);
    return made;
  }

  // A reply that is just being made.
  reply() {
    const { root, body } = this.message("agent", "");
    root.classList.add("busy");
    const steps = element("ul", "steps");
    steps.setAttribute("aria-label", "Tools at work");
    steps.hidden = true;
    body.before(steps);
    this.add([root]);
    const lines = new Map();
    return {
      root,
      sentence: (text) => this.grow(body, element("span", "", text)),
      replace: (text) => body.replaceChildren(element("span", "", text)),
      text: () => body.textContent,
      step: (tool, phase) => {
        steps.hidden = false;
        let line = phase === "started" ? null : lines.get(tool);
        if (!line) {
          line = element("li");
          lines.set(tool, line);
          steps.append(line);
        }
        line.textContent = `${tool} ${PHASES[phase] ?? phase}`;
      },
      done: () => root.classList.remove("busy"),
      drop: () => root.remove(),
    };
  }

  // An action that waits for a click. `act(kind)` is called once, whatever is clicked and how often.
  card(card, remaining, act) {
    const root = element("div", "card");
    const id = `card-${this.log.querySelectorAll(".card").length + 1}`;
    const title = element("h2", "", card.title);
    title.id = id;
    root.setAttribute("role", "group");
    root.setAttribute("aria-labelledby", id);
    root.tabIndex = -1;
    const rows = element("dl");
    for (const [name, value] of card.rows) rows.append(element("dt", "", name), element("dd", "", value));
    const outcome = element("p", "outcome");
    let open = true;
    const close = (text) => {
      open = false;
      disable(confirm, true);
      disable(cancel, true);
      outcome.textContent = text;
    };
    const once = (kind, text) => () => {
      if (!open) return;
      close(text);
      act(kind, close);
    };
    const confirm = button(card.action, "confirm", once("confirm", "Confirmed."));
    const cancel = button("Cancel", "cancel", once("decline", "Cancelled."));
    const buttons = element("div", "buttons");
    buttons.append(confirm, cancel);
    root.append(title, rows, buttons, outcome);
    if (remaining > 0) {
      setTimeout(() => {
        if (open) close("This has expired; ask for it again.");
      }, remaining);
    } else {
      close("This has expired; ask for it again.");
    }
    this.add([root]);
    return root;
  }

  // Thumbs below a reply; a no may have a reason.
  feedback(reasons, judge) {
    const root = element("div", "feedback");
    const said = element("p", "", "Was this helpful?");
    const end = async (judgement, reason) => {
      const thanks = await judge(judgement, reason);
      root.replaceChildren(element("p", "", thanks));
    };
    const yes = button("Yes", "yes", () => end("helpful", ""));
    const no = button("No", "no", () => {
      const label = element("label", "", "What was wrong? ");
      const select = element("select");
      for (const reason of reasons) {
        const option = element("option", "", reason.replaceAll("_", " "));
        option.value = reason;
        select.append(option);
      }
      label.append(select);
      root.replaceChildren(label, button("Send feedback", "", () => end("not_helpful", select.value)));
      select.focus();
    });
    root.append(said, yes, no);
    return root;
  }
}
