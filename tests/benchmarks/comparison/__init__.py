"""The comparison with the peers: who takes part, in what, how it is measured and shown."""
