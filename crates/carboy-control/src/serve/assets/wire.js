// Speaking to the server: JSON in, JSON or events out. Addresses are relative, so that any prefix before the page holds.

const BASE = new URL("../api/", document.baseURI);

// The server said no, and why.
export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `The server answered with status ${status}.`);
    this.status = status;
    this.code = error?.code ?? "unknown";
    this.next = error?.next ?? "";
    this.retryAfter = Number(error?.retry_after_s) || 0;
  }
}

// The network dropped, or the server went away: nothing is known of what was sent.
export class Dropped extends Error {}

// An id that the server knows the same question by, however often it is sent.
export const requestId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (octet) => octet.toString(16).padStart(2, "0")).join("");

const asked = async (path, options) => {
  let answer;
  try {
    answer = await fetch(new URL(path, BASE), { credentials: "same-origin", cache: "no-store", redirect: "error", ...options });
  } catch {
    throw new Dropped();
  }
  if (answer.ok) return answer;
  // A proxy's own 502 while the service is away is a dropped connection, and has no JSON.
  const body = await answer.json().catch(() => null);
  if (!body?.error && [502, 503, 504].includes(answer.status)) throw new Dropped();
  throw new Refused(answer.status, body?.error);
};

const json = async (answer) => {
  try {
    return await answer.json();
  } catch {
    throw new Dropped();
  }
};

export const get = async (path) => json(await asked(path, {}));
export const remove = async (path) => json(await asked(path, { method: "DELETE" }));

const sent = (body, accept) => ({
  method: "POST",
  headers: { "content-type": "application/json", accept },
  body: JSON.stringify(body),
});

export const post = async (path, body) => json(await asked(path, sent(body, "application/json")));

// Reads events from the place where an earlier connection ended (`job.last`). Comes back after `done` or `error`.
export const stream = async (path, body, job, hear) => {
  const options = sent(body, "text/event-stream");
  if (job.last !== undefined) options.headers["last-event-id"] = job.last;
  const answer = await asked(path, options);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch {
      throw new Dropped();
    }
    if (piece.done) throw new Dropped();
    rest += piece.value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = eventOf(block);
      if (!event) continue;
      if (event.id !== undefined) job.last = event.id;
      if (event.name === "error") throw new Refused(0, event.data.error);
      hear(event.name, event.data);
      if (event.name === "done") return;
    }
  }
};

const eventOf = (block) => {
  const event = {};
  for (const line of block.split("\n")) {
    const at = line.indexOf(": ");
    if (at > 0) event[line.slice(0, at)] = line.slice(at + 2);
  }
  if (!event.event || event.data === undefined) return null;
  return { id: event.id, name: event.event, data: JSON.parse(event.data) };
};
