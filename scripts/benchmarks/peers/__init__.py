"""Training what people run on the same patients, in the same minutes, on the same device."""
