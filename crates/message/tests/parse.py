"""Prints as JSON what Python's email package reads in the message on standard input."""

import base64
import json
import sys
from email import message_from_bytes, policy

message = message_from_bytes(sys.stdin.buffer.read(), policy=policy.default)
texts, files = {}, []
for part in message.walk():
    if part.is_multipart() and part.get_content_maintype() == "multipart":
        continue
    if part.get_content_disposition() is None:
        texts[part.get_content_subtype()] = part.get_content()
        continue
    payload = part.get_payload(decode=True)
    if part.get_content_type() == "message/rfc822":
        payload = part.get_payload(0).as_bytes()
    files.append(
        {
            "filename": part.get_filename(),
            "content_type": part.get_content_type(),
            "disposition": part.get_content_disposition(),
            "content_id": part["Content-ID"],
            "content": base64.b64encode(payload).decode(),
        }
    )
defects = [str(defect) for part in message.walk() for defect in part.defects]
json.dump(
    {
        "headers": [[name, str(value)] for name, value in message.items()],
        "texts": texts,
        "files": files,
        "structure": [part.get_content_type() for part in message.walk()],
        "defects": defects,
    },
    sys.stdout,
)
