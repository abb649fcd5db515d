// npm @x402/fetch, unmodified. Told on standard input where to pay and with which key; prints what came of each call.
import { readFileSync } from "node:fs";
import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { registerExactEvmScheme } from "@x402/evm/exact/client";
import { privateKeyToAccount } from "viem/accounts";

const told = JSON.parse(readFileSync(0, "utf8"));
const client = new x402Client();
registerExactEvmScheme(client, { signer: privateKeyToAccount(told.key) });
const pay = wrapFetchWithPayment(fetch, client);

const answers = [];
for (const url of told.urls) {
  const answer = await pay(url);
  answers.push({
    status: answer.status,
    body: await answer.json(),
    receipt: answer.headers.get("payment-response"),
  });
}
console.log(JSON.stringify(answers));
