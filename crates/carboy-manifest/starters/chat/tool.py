"""Tools of the order desk: an MCP server over standard streams, with Python's standard library alone.

Put your own look-ups in place of ORDERS. What a tool must check itself, it checks here: the model's word is no proof.
"""

import hmac
import json
import re
import sys

ORDERS = {
    "SH-1001": {"email": "ada@example.com", "item": "Desk lamp", "state": "delivered", "delivered": "2026-01-05", "returnable": True},
    "SH-1002": {"email": "ada@example.com", "item": "Chair", "state": "in transit", "delivered": None, "returnable": False},
    "SH-1003": {"email": "sam@example.com", "item": "Kettle", "state": "delivered", "delivered": "2025-06-01", "returnable": False},
}
RETURNS = {}

ORDER_ID = {"type": "string", "pattern": "^SH-[0-9]{4}$", "description": "As in SH-1001."}
EMAIL = {"type": "string", "maxLength": 254, "description": "The address that the order was placed with."}


def schema(**properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


TOOLS = [
    {
        "name": "lookup_order",
        "description": "Looks an order up by its number and e-mail address.",
        "inputSchema": schema(order_id=ORDER_ID, email=EMAIL),
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": "start_return",
        "description": "Starts the return of an order that was looked up and is returnable.",
        "inputSchema": schema(order_id=ORDER_ID, email=EMAIL),
        "annotations": {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": True},
    },
]


class Refused(Exception):
    """What the model is told instead of a result."""


def order_of(arguments):
    order_id, email = arguments.get("order_id"), arguments.get("email")
    if not isinstance(order_id, str) or not re.fullmatch(r"SH-[0-9]{4}", order_id):
        raise Refused("invalid_arguments: order_id looks like SH-1001")
    if not isinstance(email, str) or len(email) > 254:
        raise Refused("invalid_arguments: email is missing")
    order = ORDERS.get(order_id)
    known = order["email"] if order else ""
    # One answer for "not there" and "not yours": nobody finds out which orders exist.
    matches = hmac.compare_digest(known.encode(), email.strip().lower().encode())
    if order is None or not matches:
        raise Refused("order_not_found")
    return order_id, order


def lookup_order(arguments):
    order_id, order = order_of(arguments)
    return {"order_id": order_id, **{key: order[key] for key in ("item", "state", "delivered", "returnable")}}


def start_return(arguments):
    order_id, order = order_of(arguments)
    if not order["returnable"]:
        raise Refused("not_returnable")
    number = RETURNS.setdefault(order_id, f"RMA-{len(RETURNS) + 1:04d}")
    return {"order_id": order_id, "return_number": number}


HANDLERS = {"lookup_order": lookup_order, "start_return": start_return}


def call(params):
    handler = HANDLERS.get(params.get("name"))
    try:
        if handler is None:
            raise Refused("there is no such tool")
        result = handler(params.get("arguments") or {})
    except Refused as refused:
        return {"content": [{"type": "text", "text": str(refused)}], "isError": True}
    text = json.dumps(result, separators=(",", ":"))
    return {"content": [{"type": "text", "text": text}], "structuredContent": result, "isError": False}


def answer(method, params):
    if method == "initialize":
        return {
            "protocolVersion": params.get("protocolVersion", "2025-06-18"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "shop-tools", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": TOOLS}
    if method == "tools/call":
        return call(params)
    if method == "ping":
        return {}
    return None


def main():
    for line in sys.stdin:
        try:
            request = json.loads(line)
        except ValueError:
            continue
        if not isinstance(request, dict) or "id" not in request:
            continue
        result = answer(request.get("method"), request.get("params") or {})
        reply = {"jsonrpc": "2.0", "id": request["id"]}
        if result is None:
            reply["error"] = {"code": -32601, "message": "method not found"}
        else:
            reply["result"] = result
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


main()
