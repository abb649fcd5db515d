"""x402: stablecoin payments, one signature per request, through facilitators.

    networks.py      chains and tokens by CAIP-2 and familiar name               (pure)
    amounts.py       money to atomic units, exactly                              (pure)
    wire.py          headers and envelopes of both protocol versions             (pure)
    payments.py      what a payer signed, and whether it is what was asked for   (pure)
    offers.py        what is asked for: the ``accepts`` of a quote               (pure)
    facilitator.py   /verify, /settle, /supported
    cdp.py           how Coinbase's facilitator wants to be spoken to
    chain.py         what the chain itself knows of a payment
    rail.py          the rail

Source: the x402 specification, https://github.com/coinbase/x402/tree/main/specs.
"""
