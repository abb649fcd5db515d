// npm @getalby/sdk: the wallet's side of Nostr Wallet Connect, in front of a node that speaks phoenixd's HTTP.
// Arguments: the relay, the wallet's secret key, the service's public key, the node's address, the node's password.

import { NWCWalletService, NWCWalletServiceKeyPair } from "@getalby/sdk/nwc";

const [relay, walletSecret, servicePublic, node, password] = process.argv.slice(2);
const headers = { Authorization: `Basic ${btoa(`:${password}`)}` };

function transaction(payment) {
  return {
    type: "incoming",
    state: payment.isPaid ? "settled" : payment.isExpired ? "expired" : "pending",
    invoice: payment.invoice,
    description: payment.description,
    preimage: payment.preimage,
    payment_hash: payment.paymentHash,
    amount: payment.requestedSat * 1000,
    fees_paid: 0,
    created_at: Math.floor(payment.createdAt / 1000),
    expires_at: Math.floor(payment.expiresAt / 1000),
    settled_at: payment.completedAt ? Math.floor(payment.completedAt / 1000) : undefined,
  };
}

async function lookupInvoice({ payment_hash: hash }) {
  const answer = await fetch(`${node}/payments/incoming/${hash}`, { headers });
  if (answer.status === 404) return { error: { code: "NOT_FOUND", message: "no such invoice" } };
  return { result: transaction(await answer.json()), error: undefined };
}

async function makeInvoice({ amount, description, expiry }) {
  const body = new URLSearchParams({ amountSat: amount / 1000, description, expirySeconds: expiry });
  const made = await (await fetch(`${node}/createinvoice`, { method: "POST", headers, body })).json();
  return lookupInvoice({ payment_hash: made.paymentHash });
}

const wallet = new NWCWalletService({ relayUrls: [relay] });
await wallet.publishWalletServiceInfoEvent(walletSecret, ["make_invoice", "lookup_invoice"], []);
const keys = new NWCWalletServiceKeyPair(walletSecret, servicePublic);
await wallet.subscribe(keys, { makeInvoice, lookupInvoice });
console.log("ready");
