"""The rig: what is in this machine (`probe`), what is wrong with it (`doctor`, `checks`)."""
