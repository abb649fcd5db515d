// npm @getalby/lightning-tools: fetch with a wallet. It hands out the credential that it bought and pays for nothing
// while it is given one, so a caller keeps the credential and lets go of it when a 402 says that it is spent.
// The first argument is the server's base URL.

import { fetchWithL402 } from "@getalby/lightning-tools/402/l402";

const base = process.argv[2];
const calls = ["/weather", "/weather", "/echo", "/weather", "/joke", "/weather"];
let payments = 0;
let credentials;

const wallet = {
  async payInvoice({ invoice }) {
    const paid = await fetch(`${base}/tollbooth/dev/pay`, { method: "POST", body: JSON.stringify({ invoice }) });
    if (!paid.ok) throw new Error(await paid.text());
    payments += 1;
    return { preimage: (await paid.json()).preimage };
  },
};

function request(path) {
  if (path !== "/echo") return {};
  const body = JSON.stringify({ say: "hello", times: 2 });
  return { method: "POST", headers: { "Content-Type": "application/json" }, body };
}

const answers = [];
for (const path of calls) {
  let response = await fetchWithL402(base + path, request(path), { wallet, credentials });
  const refused = response.status === 402 ? (await response.json()).reason : null;
  if (refused !== null) response = await fetchWithL402(base + path, request(path), { wallet });
  credentials = response.payment.credentials;
  answers.push({ path, status: response.status, body: await response.json(), payments, refused });
}
console.log(JSON.stringify(answers));
