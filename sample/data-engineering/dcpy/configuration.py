"""Settings, read from the environment once, and the log."""

import logging
import os
from pathlib import Path

BUILD_NAME = os.environ.get("BUILD_NAME")
INGEST_DEF_DIR = Path(os.environ.get("TEMPLATE_DIR", "./ingest_templates"))
RECIPES_BUCKET = os.environ.get("RECIPES_BUCKET", "edm-recipes")

logger = logging.getLogger("dcpy")
logger.setLevel(logging.INFO)
if not logger.handlers:
    handler = logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s:%(name)s:%(message)s", "%H:%M:%S")
    )
    logger.addHandler(handler)
