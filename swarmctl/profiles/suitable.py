"""Which built-in profile suits this machine."""

from hivemind_exp.models.hardware import detect_hardware


def suitable_builtin() -> str:
    """Return the built-in profile for a real model that suits this machine."""
    hardware = detect_hardware()
    if hardware.apple:
        return "mac"
    return "default" if hardware.nvidia or hardware.amd or hardware.intel else "cpu"
