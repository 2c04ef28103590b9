"""What is in this machine, as frozen dataclasses; `rig.probe` looks at everything."""
