#!/usr/bin/env python3
"""Verifies every DKIM signature of a message with dkimpy (Debian: python3-dkim).

    verify.py NAME=RECORD... < message

NAME is that of a TXT record (selector._domainkey.domain), RECORD its text. Writes one line for each signature, top
down: "pass" or "fail". Ends with 0 if there are signatures and all pass, with 1 if not, and with 3 where dkimpy or
PyNaCl is missing.
"""

import sys

try:
    import dkim
    import nacl.signing  # noqa: F401  dkimpy needs it for Ed25519 alone, and looks for it late
except ImportError:
    sys.exit(3)


def main() -> int:
    records = dict(argument.split("=", 1) for argument in sys.argv[1:])

    def txt(name: bytes, timeout: int = 5) -> bytes:
        record = records.get(name.decode("ascii").rstrip("."), "")
        return record.encode("ascii")

    verifier = dkim.DKIM(sys.stdin.buffer.read())
    signatures = [name for name, _ in verifier.headers if name.lower() == b"dkim-signature"]
    results = []
    for index in range(len(signatures)):
        try:
            results.append(verifier.verify(index, dnsfunc=txt))
        except dkim.DKIMException as error:
            print(error, file=sys.stderr)
            results.append(False)
        print("pass" if results[-1] else "fail")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
