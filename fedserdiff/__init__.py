"""What both sides of the wire share: configuration, data, the diffusion model, scores, reports, records."""

import os

# Flower, Ray and MLflow report usage to their makers by default. A hospital's tool phones nobody. Flower reads its
# variable when it is first imported, so this package is imported before it; the processes that Ray starts inherit all.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
