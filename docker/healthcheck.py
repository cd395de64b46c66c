"""Docker's HEALTHCHECK: exit code 0 while the server in this container is ready for requests, and 1 otherwise.

Where SKIPVIT_TLS_CERT is set it asks by HTTPS, and takes any certificate: this is its own container, by another name.

http.client and no more than that: urllib would ask a proxy that the environment names for our own address.
"""

import http.client
import os
import ssl
import sys

PORT = os.environ.get("SKIPVIT_PORT", "")


def main() -> int:
    """Asks /readyz once; prints the answer, which `docker inspect` shows."""
    # A linked container called skipvit sets SKIPVIT_PORT=tcp://..., which the server takes for its default as well.
    port = int(PORT) if PORT.isdecimal() else 8000
    if os.environ.get("SKIPVIT_TLS_CERT"):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=2, context=context
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        print(answer.status, answer.read(200).decode(errors="replace"))
        return 0 if answer.status == 200 else 1
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer from port {connection.port}: {error!r}")
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
