"""The id by which a service tells tabs apart: random, the same for all prompts of a client."""

import json

from tests.clients.js.node import FOLDER, node

SCRIPT = """
import { Nextchar } from "./client.js";
const sent = [];
globalThis.fetch = async (url, { headers }) => {
  sent.push(headers["X-Document"] ?? null);
  return new Response(JSON.stringify({ data: [], has_more: false }));
};
const [one, other] = [new Nextchar(), new Nextchar()];
for (const client of [one, one, other]) await client.complete("m", "p");
await one.next("m", "p");
await one.models(); // a GET, which needs no permission of the service
console.log(JSON.stringify(sent));
"""


def test_prompts_of_a_client_name_its_document() -> None:
    found = json.loads(node("--input-type=module", "-e", SCRIPT, cwd=FOLDER))
    first, again, other, following, models = found
    assert first == again == following != other and models is None
    assert len(first) >= 20 and len(other) >= 20  # of 128 random bits
