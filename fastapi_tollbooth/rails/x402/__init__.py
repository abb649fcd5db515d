"""x402: stablecoin payments, one signature per request, through facilitators.

    rail.py          the rail
    settling.py      claim, settle, resolve: the order of steps of one payment
    order.py         a payment and what it is to buy
    challenge.py     the 402 in both versions                                    (pure)
    bazaar.py        what directories are told of a route
    answers.py       the same answer for the same payment and request, once more
    sealing.py       such answers at rest
    identifiers.py   the names that payers give to their requests                (pure)
    resource.py      the URL in it                                               (pure)
    history.py       what the ledger remembers of payments
    accepted.py      the networks that the settings accept
    facilitator.py   /verify, /settle, /supported
    transport.py     lean HTTP/1.1 under httpx
    cdp.py           how Coinbase's facilitator wants to be spoken to
    chain.py         what the chain itself knows of a payment
    offers.py        what is asked for: the ``accepts`` of a quote               (pure)
    quotes.py        quoted prices that hold: signed, and echoed by the payer     (pure)
    payments.py      what a payer signed, and whether it is what was asked for   (pure)
    svm.py           just enough of Solana for that                              (pure)
    wire.py          headers and envelopes of both versions                      (pure)
    amounts.py       money to atomic units, exactly                              (pure)
    networks.py      chains and tokens by CAIP-2 and familiar name               (pure)
    keccak.py        Ethereum's hash, for the checksums of addresses             (pure)

Source: the x402 specification, https://github.com/coinbase/x402/tree/main/specs.
"""
