"""HTML in texts."""

from __future__ import annotations

import re

# Tags, and entities by name, decimal or hexadecimal number.
CLEANUP_REGEX = re.compile(r"<.*?>|&(?:[a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")
