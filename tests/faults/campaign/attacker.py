"""One attack, in a process of its own: ``python -m tests.faults.campaign.attacker NAME '{"port": ...}'``."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

from tests.faults.campaign.model import Target
from tests.faults.campaign.registry import ATTACKS

if __name__ == "__main__":
    name, told = sys.argv[1:]
    # The attackers of the world have processors of their own; here they must not take the victim's.
    os.nice(5)
    print(json.dumps(asdict(ATTACKS[name].run(Target(**json.loads(told))))))
