"""Whether the Hugging Face hub can be asked, found out in seconds: its own client tries again for half a minute."""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request

PROBE_SECONDS = 5.0


def no_network(url: str | None = None) -> str | None:
    """Why nothing can be fetched from `url` (the hub by default); None if it answers."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to fetch it"
    url = url or constants.ENDPOINT
    return None if _reachable(url) else f"{url} does not answer"


def _reachable(url: str) -> bool:
    """Whether a server answers within a few seconds."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS):
                answers.append(True)
        except urllib.error.HTTPError:  # it answered
            answers.append(True)
        except urllib.error.URLError as error:
            # So did one whose certificate only the hub's client, with settings of its own, may know to check.
            answers.append(isinstance(error.reason, ssl.SSLError))
        except (OSError, ValueError):
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)  # a name lookup knows no timeout of its own
    thread.start()
    thread.join(PROBE_SECONDS)
    return answers == [True]
