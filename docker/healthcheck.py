"""Docker's HEALTHCHECK: exit code 0 while the server in this container is ready for requests, and 1 otherwise.

http.client and no more than that: urllib would ask a proxy that the environment names for our own address.
"""

import http.client
import os
import sys

PORT = os.environ.get("SKIPVIT_PORT", "")


def main() -> int:
    """Asks /readyz once; prints the answer, which `docker inspect` shows."""
    # A linked container called skipvit sets SKIPVIT_PORT=tcp://..., which the server takes for its default as well.
    connection = http.client.HTTPConnection("127.0.0.1", int(PORT) if PORT.isdecimal() else 8000, timeout=2)
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
