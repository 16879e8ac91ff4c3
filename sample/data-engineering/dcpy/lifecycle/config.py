"""Where the stages of the lifecycle keep their files."""

import os
from pathlib import Path

DATA_DIR = Path(os.environ.get("DCPY_LIFECYCLE_DATA_DIR") or Path.cwd() / ".lifecycle")


def local_data_path_for_stage(stages: str) -> Path:
    """Give a stage's folder: `builds.load` is builds/load in the lifecycle's data folder."""
    return DATA_DIR.joinpath(*stages.split("."))


def get_build_dir(product_name: str, version: str) -> Path:
    """Give the folder of one build, for when BUILD_ENV_OUTPUT_DIR names none."""
    return local_data_path_for_stage("builds.build") / product_name / version


def get_plan_dir(product_name: str, version: str) -> Path:
    """Give the folder of one build's plan, for when nothing else names a place."""
    return local_data_path_for_stage("builds.plan") / product_name / version
