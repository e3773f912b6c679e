"""All attacks, by name, in the order of the table."""

from __future__ import annotations

from tests.faults.campaign.attacks import http1, http2, http3, websocket
from tests.faults.campaign.model import Attack

ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in [*http1.ATTACKS, *http2.ATTACKS, *websocket.ATTACKS, *http3.ATTACKS]
}
