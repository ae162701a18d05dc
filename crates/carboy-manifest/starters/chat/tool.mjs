// Tools of the order desk: an MCP server over standard streams, with Node's own modules alone.
//
// Put your own look-ups in place of ORDERS. What a tool must check itself, it checks here: the model's word is no proof.

import { createHash, timingSafeEqual } from "node:crypto";
import { createInterface } from "node:readline";

const ORDERS = {
  "SH-1001": { email: "ada@example.com", item: "Desk lamp", state: "delivered", delivered: "2026-01-05", returnable: true },
  "SH-1002": { email: "ada@example.com", item: "Chair", state: "in transit", delivered: null, returnable: false },
  "SH-1003": { email: "sam@example.com", item: "Kettle", state: "delivered", delivered: "2025-06-01", returnable: false },
};
const RETURNS = new Map();

const ORDER_ID = { type: "string", pattern: "^SH-[0-9]{4}$", description: "As in SH-1001." };
const EMAIL = { type: "string", maxLength: 254, description: "The address that the order was placed with." };
const inputSchema = {
  type: "object",
  properties: { order_id: ORDER_ID, email: EMAIL },
  required: ["order_id", "email"],
  additionalProperties: false,
};

const TOOLS = [
  {
    name: "lookup_order",
    description: "Looks an order up by its number and e-mail address.",
    inputSchema,
    annotations: { readOnlyHint: true },
  },
  {
    name: "start_return",
    description: "Starts the return of an order that was looked up and is returnable.",
    inputSchema,
    annotations: { readOnlyHint: false, destructiveHint: true, idempotentHint: true },
  },
];

/** What the model is told instead of a result. */
class Refused extends Error {}

const digest = (text) => createHash("sha256").update(text).digest();

function orderOf(args) {
  const { order_id: id, email } = args;
  if (typeof id !== "string" || !/^SH-[0-9]{4}$/.test(id)) throw new Refused("invalid_arguments: order_id looks like SH-1001");
  if (typeof email !== "string" || email.length > 254) throw new Refused("invalid_arguments: email is missing");
  const order = Object.hasOwn(ORDERS, id) ? ORDERS[id] : undefined;
  // One answer for "not there" and "not yours": nobody finds out which orders exist.
  const matches = timingSafeEqual(digest(order?.email ?? ""), digest(email.trim().toLowerCase()));
  if (order === undefined || !matches) throw new Refused("order_not_found");
  return { id, order };
}

const HANDLERS = {
  lookup_order(args) {
    const { id, order } = orderOf(args);
    const { item, state, delivered, returnable } = order;
    return { order_id: id, item, state, delivered, returnable };
  },
  start_return(args) {
    const { id, order } = orderOf(args);
    if (!order.returnable) throw new Refused("not_returnable");
    if (!RETURNS.has(id)) RETURNS.set(id, `RMA-${String(RETURNS.size + 1).padStart(4, "0")}`);
    return { order_id: id, return_number: RETURNS.get(id) };
  },
};

function call(params) {
  try {
    if (!Object.hasOwn(HANDLERS, params.name)) throw new Refused("there is no such tool");
    const result = HANDLERS[params.name](params.arguments ?? {});
    return { content: [{ type: "text", text: JSON.stringify(result) }], structuredContent: result, isError: false };
  } catch (refused) {
    if (!(refused instanceof Refused)) throw refused;
    return { content: [{ type: "text", text: refused.message }], isError: true };
  }
}

function answer(method, params) {
  switch (method) {
    case "initialize":
      return {
        protocolVersion: params.protocolVersion ?? "2025-06-18",
        capabilities: { tools: {} },
        serverInfo: { name: "shop-tools", version: "1" },
      };
    case "tools/list":
      return { tools: TOOLS };
    case "tools/call":
      return call(params);
    case "ping":
      return {};
    default:
      return undefined;
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  let request;
  try {
    request = JSON.parse(line);
  } catch {
    continue;
  }
  if (request === null || typeof request !== "object" || request.id === undefined) continue;
  const result = answer(request.method, request.params ?? {});
  const reply = { jsonrpc: "2.0", id: request.id };
  if (result === undefined) reply.error = { code: -32601, message: "method not found" };
  else reply.result = result;
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
