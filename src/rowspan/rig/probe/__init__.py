"""The hardware and system of this machine as frozen dataclasses; `rig.probe` looks at everything."""
