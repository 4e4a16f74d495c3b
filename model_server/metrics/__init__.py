"""What the server measures: which metrics there are, where their samples go, and the text of `/metrics`."""
