"""Training of established methods on the same patients, for the same minutes, on the same device."""
