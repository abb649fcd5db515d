"""A local EVM chain, a dollar token with EIP-3009 on it, and the official x402 facilitator in front of it.

Runs in an environment with ``x402[evm]``, ``eth-tester``, ``py-evm`` and ``vyper``; prints where everything is as one
line of JSON, then serves until its standard input is closed.

The chain says that it is Base Sepolia, because clients of version 1 know chains by familiar name only.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from eth_account import Account  # type: ignore[import-not-found]
from eth_tester import EthereumTester, PyEVMBackend  # type: ignore[import-not-found]
from vyper import compile_code  # type: ignore[import-not-found]
from web3 import EthereumTesterProvider, Web3  # type: ignore[import-not-found]
from x402 import x402FacilitatorSync  # type: ignore[import-not-found]
from x402.mechanisms.evm import FacilitatorWeb3Signer  # type: ignore[import-not-found]
from x402.mechanisms.evm.exact import register_exact_evm_facilitator  # type: ignore[import-not-found]
from x402.schemas import PaymentPayload, PaymentRequirements  # type: ignore[import-not-found]
from x402.schemas.v1 import PaymentPayloadV1, PaymentRequirementsV1  # type: ignore[import-not-found]

CHAIN_ID = 84532
TOKEN = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
"""Where USDC is on the chain that this one says it is: clients pay with no other token of their own accord."""
MINT = "40c10f19"
SUPPLY = 1_000_000_000
ETHER = 10**18


class Chain:
    """The chain and the token. One call at a time: py-evm does not know about threads."""

    def __init__(self) -> None:
        compiled = compile_code(Path(__file__).with_name("token.vy").read_text(), output_formats=["bytecode_runtime"])
        genesis = PyEVMBackend.generate_genesis_state(num_accounts=1)
        code = bytes.fromhex(compiled["bytecode_runtime"].removeprefix("0x"))
        genesis[bytes.fromhex(TOKEN[2:])] = {"balance": 0, "nonce": 1, "code": code, "storage": {}}
        backend = PyEVMBackend(genesis_state=genesis)
        type(backend.chain).chain_id = CHAIN_ID
        self._tester = EthereumTester(backend)
        self._web3 = Web3(EthereumTesterProvider(self._tester))
        self._guard = threading.Lock()
        owner = self._tester.get_accounts()[0]
        self.payer, self.settler = Account.create(), Account.create()
        self._tester.send_transaction(
            {"from": owner, "to": self.settler.address, "value": 1_000 * ETHER, "gas": 21_000}
        )
        minting = "0x" + MINT + self.payer.address[2:].rjust(64, "0") + f"{SUPPLY:064x}"
        self._tester.send_transaction({"from": owner, "to": TOKEN, "data": minting, "gas": 200_000})

    def rpc(self, method: str, params: list[Any]) -> Any:
        """One JSON-RPC call."""
        if method == "eth_chainId":
            return hex(CHAIN_ID)
        with self._guard:
            if method == "eth_getLogs":
                return _json(self._logs(**params[0]))
            if method == "eth_call":
                params = [{"from": self.settler.address} | params[0], *params[1:]]
            answer = self._web3.provider.make_request(method, params)
        if answer.get("error") is not None:
            raise ValueError(str(answer["error"]))
        return _json(answer["result"])

    def _logs(self, **query: Any) -> Any:
        first, last = (int(query[name], 16) for name in ("fromBlock", "toBlock"))
        return self._tester.get_logs(from_block=first, to_block=last, address=query["address"], topics=query["topics"])


def _json(value: Any) -> Any:
    """What eth-tester says, as nodes say it: numbers in hex, names in camel case."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, (list, tuple)):
        return [_json(entry) for entry in value]
    return {_camel(name): _json(entry) for name, entry in dict(value).items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


class Desk:
    """The official facilitator's answers, and what tests ask for besides.

    Attributes:
        fault: ``"lose"`` settles and hangs up; ``"refuse"`` settles nothing and says so; None does as it should.
    """

    def __init__(self, rpc_url: str, key: str) -> None:
        signer = FacilitatorWeb3Signer(key, rpc_url)
        self._facilitator = register_exact_evm_facilitator(x402FacilitatorSync(), signer, f"eip155:{CHAIN_ID}")
        self._guard = threading.Lock()
        self.fault: str | None = None
        self.calls: list[str] = []

    def answer(self, path: str, body: Any) -> Any:
        """One call; None hangs up."""
        if path == "/fault":
            self.fault = body
            return {}
        if path == "/calls":
            return self.calls
        if path == "/supported":
            return self._facilitator.get_supported().model_dump(by_alias=True, exclude_none=True)
        self.calls.append(path)
        first = body["x402Version"] == 1
        payload = (PaymentPayloadV1 if first else PaymentPayload).model_validate(body["paymentPayload"])
        wanted = (PaymentRequirementsV1 if first else PaymentRequirements).model_validate(body["paymentRequirements"])
        with self._guard:
            if path == "/verify":
                answer = self._facilitator.verify(payload, wanted)
            elif self.fault == "refuse":
                return {"success": False, "errorReason": "insufficient_funds", "transaction": "", "network": ""}
            else:
                answer = self._facilitator.settle(payload, wanted)
        if path == "/settle" and self.fault == "lose":
            return None
        return answer.model_dump(by_alias=True, exclude_none=True)


def serve(answer: Any) -> str:
    """Serve a function of path and body on loopback; the base URL."""

    class Call(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            document = answer(self.path, json.loads(self.rfile.read(length)) if length else None)
            if document is None:
                self.close_connection = True
                return
            text = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Call)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def main() -> None:
    """Build everything, say where it is, serve."""
    chain = Chain()

    def rpc(_path: str, body: Any) -> Any:
        try:
            return {"jsonrpc": "2.0", "id": body["id"], "result": chain.rpc(body["method"], body["params"])}
        except Exception as error:  # noqa: BLE001 - whatever the chain says goes to who asked
            return {"jsonrpc": "2.0", "id": body["id"], "error": {"code": 3, "message": str(error)}}

    rpc_url = serve(rpc)
    place = {
        "rpc": rpc_url,
        "facilitator": serve(Desk(rpc_url, chain.settler.key.hex()).answer),
        "network": f"eip155:{CHAIN_ID}",
        "token": TOKEN,
        "payer": chain.payer.address,
        "key": "0x" + chain.payer.key.hex().removeprefix("0x"),
    }
    print(json.dumps(place), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
