// The chat page: what people do, what they see of it, and what happens when something is not there.
import { Dropped, Refused, get, post, remove, requestId, stream } from "./wire.js";
import { applyTheme } from "./theme.js";
import { View, disable, disabled } from "./view.js";

// Pauses before a dropped connection is tried again, in milliseconds; then a person is asked.
const RETRY_PAUSES_MS = [300, 1000, 2000, 4000];
// How often it is looked whether somebody of the shop's has answered, while something waits for them, in milliseconds.
const WAITS_LOOK_MS = 3000;

const $ = (id) => document.getElementById(id);
const view = new View();
const tabs = "BroadcastChannel" in self ? new BroadcastChannel("carboy-chat") : null;
const state = { busy: false, known: [], limits: { message_chars_max: 4000 }, reasons: [], ahead: 0, until: 0 };

const say = (text) => {
  $("status").textContent = text;
};

const pause = (ms) => new Promise((ready) => setTimeout(ready, ms));

// A line above the message field, with at most one thing to do about it.
const notice = (text, action, act) => {
  $("notice").hidden = !text;
  $("notice-text").textContent = text;
  $("notice-action").hidden = !action;
  $("notice-action").textContent = action ?? "";
  $("notice-action").onclick = act ?? null;
  if (text) say(text);
};

const busy = (on) => {
  state.busy = on;
  $("stop").hidden = !on;
  sendable();
};

const sendable = () => disable($("send"), state.busy || Date.now() < state.until);

// What people and the agent said: steps and notes come and go beside it.
const spoken = (lines) => lines.filter((line) => line.who === "person" || line.who === "agent").map((line) => line.who + line.text);

// Is all that the server keeps shown, at the end? It keeps so many lines and no more: the older ones may be gone there.
const alike = (shown, kept) => {
  const [one, other] = [spoken(shown), spoken(kept)];
  if (other.length > one.length || (other.length === 0) !== (one.length === 0)) return false;
  return other.every((text, at) => text === one[one.length - other.length + at]);
};

// The server's time of the last line that is known: what was said since then is later.
const lastTime = () => Math.max(0, ...state.known.map((line) => line.at_ms ?? 0));

// What the server keeps: the lines, and the card that waits for a click.
const keep = ({ lines, cards }) => {
  state.known = lines;
  state.open = cards[0] ?? null;
};

// What the server has of this conversation; drawn anew only where it differs.
const refresh = async () => {
  const kept = await get("transcript");
  const same = alike(state.known, kept.lines);
  keep(kept);
  look(kept.waits);
  if (same || state.busy) return;
  draw();
  // It came without a question: whoever does not see it hears it.
  if (kept.lines.at(-1)?.who === "agent") say(kept.lines.at(-1).text);
};

// Something waits for somebody who is not in this conversation: their answer is looked for, and a page that nobody sees waits.
const look = (waits) => {
  clearTimeout(state.looking);
  if (waits > 0) state.looking = setTimeout(() => (document.hidden ? look(waits) : refresh().catch(() => look(waits))), WAITS_LOOK_MS);
};

const draw = () => {
  const lines = [...(state.greeting ? [{ who: "agent", text: state.greeting }] : []), ...state.known];
  const roots = view.replaceAll(lines);
  // What somebody thinks of the last reply can still be said, and goes to the turn that it is of.
  const last = lines.findLastIndex((line) => line.who === "agent");
  if (lines[last]?.turn > 0 && !lines[last].judged) judgeable(roots[last], lines[last].turn);
  // A question that waits for a click is not lost by drawing anew.
  if (state.open) showCard(state.open, {});
};

const judgeable = (root, turn) => {
  const judge = async (judgement, reason) => {
    try {
      await post("feedback", { turn, judgement, reason });
      return "Thank you.";
    } catch {
      return "This could not be sent.";
    }
  };
  view.grow(root, view.feedback(state.reasons, judge));
};

// One question, from the click to its reply, through every drop of the network, sent no more than once.
const run = async (job) => {
  busy(true);
  notice("");
  const reply = view.reply();
  const hear = (name, data) => {
    if (name === "sentence") reply.sentence(data.text);
    else if (name === "replace") reply.replace(data.text);
    else if (name === "step") reply.step(data.tool, data.phase);
    else if (name === "card") showCard(data, job);
    else if (name === "done") finish(reply, data, job);
  };
  try {
    await persist(job, hear, reply);
  } catch (error) {
    fail(error, reply, job);
  } finally {
    reply.done();
    // What another tab said meanwhile is in it too.
    const kept = await get("transcript").catch(() => null);
    const same = !kept || alike(state.known, kept.lines);
    if (kept) {
      keep(kept);
      look(kept.waits);
    }
    if (!same && $("notice").hidden) draw();
    busy(false);
    tabs?.postMessage("changed");
    if (state.stale) changed();
  }
};

const persist = async (job, hear, reply) => {
  for (let attempt = 0; ; attempt += 1) {
    try {
      if ((attempt > 0 || job.again) && !(await wanted(job, reply))) return;
      await stream(job.path, job.body, job, hear);
      return;
    } catch (error) {
      if (!(error instanceof Dropped) || attempt >= RETRY_PAUSES_MS.length) throw error;
      say("The connection was lost. Trying again.");
      await pause(RETRY_PAUSES_MS[attempt]);
    }
  }
};

// After a drop: is the question still being answered, or answered already, or unknown to a server that was restarted?
const wanted = async (job, reply) => {
  const kept = await get("transcript");
  if (kept.under_way.includes(job.body.request)) return true;
  if (kept.lines.some((line) => line.who === "person" && line.text === job.text && line.at_ms > job.since)) {
    keep(kept);
    reply.drop();
    draw();
    return false;
  }
  throw new Unanswered();
};

class Unanswered extends Error {}

const finish = (reply, data, job) => {
  // What was shown sentence by sentence and the whole reply are the same, or the whole one is right.
  if (reply.text() !== data.reply) reply.replace(data.reply);
  if (data.card && !job.card) showCard(data.card, job);
  const asked = job.text === undefined ? [] : [{ who: "person", text: job.text }];
  state.known = [...state.known, ...asked, { who: "agent", text: data.reply, turn: data.turn }];
  if (data.turn > 0) judgeable(reply.root, data.turn);
  say("");
};

const fail = (error, reply, job) => {
  const again = (ask) => () => run({ ...job, again: ask, last: undefined });
  if (error instanceof Dropped || error instanceof Unanswered) {
    reply.drop();
    // Nothing is sent a second time before the server has said that it does not have it.
    if (error instanceof Dropped) notice("The connection was lost. Your message is kept.", "Try again", again(true));
    else notice("The connection was lost before an answer came.", "Send again", again(false));
    return;
  }
  if (reply.text() === "") reply.drop();
  if (!(error instanceof Refused)) throw error;
  if (error.code === "stopped") {
    if (reply.text() !== "") view.line("note", "Stopped.");
    say("Stopped.");
    restore(job);
    return;
  }
  if (error.code === "session_over") {
    notice(error.message, "Start a new conversation", forget);
    return;
  }
  // Somebody else was faster, or the card too old: what stands under it was said too early.
  if (error.code === "card_over") job.close?.("This was answered already, or has expired.");
  restore(job);
  if (error.retryAfter > 0 && error.status === 429) {
    countdown(error.message, error.retryAfter);
    return;
  }
  notice([error.message, error.next].filter(Boolean).join(" – "));
};

// Words that were not taken stand in the field again, unless others stand there already.
const restore = (job) => {
  if (job.text === undefined) return;
  job.line?.root.remove();
  if ($("message").value === "") $("message").value = job.text;
  count();
};

// Told once at its start and once at its end; the seconds between are for eyes.
const countdown = (message, seconds) => {
  state.until = Date.now() + seconds * 1000;
  notice(`${message} You can send again in ${seconds} s.`);
  const tick = () => {
    const left = Math.ceil((state.until - Date.now()) / 1000);
    if (left <= 0) {
      notice("");
      say("You can send again.");
      sendable();
      return;
    }
    $("notice-text").textContent = `${message} You can send again in ${left} s.`;
    setTimeout(tick, 250);
  };
  tick();
};

const showCard = (card, job) => {
  if (job.card === card.token) return;
  job.card = card.token;
  state.open = card;
  const remaining = card.expires_ms - (Date.now() + state.ahead);
  const root = view.card(card, remaining, async (kind, close) => {
    state.open = null;
    const body = { token: card.token, request: requestId() };
    if (kind === "confirm") {
      await run({ path: "confirm", body, since: lastTime(), close });
      return;
    }
    try {
      const { reply } = await post("decline", body);
      view.line("agent", reply);
    } catch (error) {
      close(error instanceof Refused ? `${error.message}; ${error.next}.` : "The connection was lost; nothing was done.");
    }
  });
  say(`Please confirm: ${card.title}`);
  if (document.activeElement === $("message") && $("message").value === "") root.focus();
};

const send = () => {
  const text = $("message").value.trim();
  if (disabled($("send")) || text === "") return;
  if ([...text].length > state.limits.message_chars_max) {
    notice(`This is longer than ${state.limits.message_chars_max} characters.`);
    return;
  }
  $("message").value = "";
  count();
  const line = view.line("person", text);
  view.toEnd();
  run({ path: "chat", text, line, body: { message: text, request: requestId() }, since: lastTime() });
};

const stop = async () => {
  say("Stopping.");
  try {
    await post("stop", {});
  } catch {
    notice("It could not be stopped: the connection is lost.");
  }
};

const forget = async () => {
  try {
    await remove("transcript");
    state.known = [];
    state.open = null;
    draw();
    notice("");
    say("The conversation is deleted.");
    tabs?.postMessage("changed");
  } catch (error) {
    notice(error instanceof Refused ? error.message : "The connection was lost; nothing was deleted.", "Try again", forget);
  }
  $("message").focus();
};

const handOff = async () => {
  if (disabled($("handoff"))) return;
  disable($("handoff"), true);
  try {
    const { reply } = await post("handoff", {});
    view.line("agent", reply);
    look(1);
  } catch (error) {
    notice(error instanceof Refused ? error.message : "The connection was lost.", "Try again", handOff);
  } finally {
    disable($("handoff"), false);
  }
};

const count = () => {
  const left = state.limits.message_chars_max - [...$("message").value].length;
  $("left").textContent = left < 200 ? `${left} characters left.` : "";
};

const begin = async () => {
  try {
    const now = Date.now();
    const told = await get("state");
    state.ahead = told.now_ms - now;
    state.limits = told.limits;
    state.reasons = told.feedback_reasons;
    state.greeting = told.greeting;
    document.title = told.title;
    $("title").textContent = told.title;
    view.agent = told.offline ? `${told.title} (${told.offline})` : told.title;
    $("offline").textContent = told.offline ?? "";
    $("offline").hidden = !told.offline;
    const kept = await get("transcript");
    keep(kept);
    look(kept.waits);
    draw();
    notice("");
  } catch (error) {
    if (error instanceof Refused) notice([error.message, error.next].filter(Boolean).join(" – "), "Try again", begin);
    else notice("The server cannot be reached.", "Try again", begin);
  }
  document.documentElement.dataset.ready = "yes";
};

const changed = () => {
  // Looked at when the answer that is under way is there.
  state.stale = state.busy;
  // Who is offline sees it when sending.
  if (!state.busy) refresh().catch(() => {});
};

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
$("message").addEventListener("input", count);
$("stop").addEventListener("click", stop);
$("handoff").addEventListener("click", handOff);
$("forget").addEventListener("click", () => $("ask").showModal());
$("ask-no").addEventListener("click", () => $("ask").close());
$("ask-yes").addEventListener("click", () => {
  $("ask").close();
  forget();
});
tabs?.addEventListener("message", changed);
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && changed());
addEventListener("offline", () => notice("You are offline. What you write is kept."));
addEventListener("online", () => notice(""));
applyTheme(location.hash);
begin();
$("message").focus();
