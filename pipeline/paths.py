"""Where each stage reads and writes, relative to the project's folder. dvc.yaml names the same files."""

from pathlib import Path

PARAMS = Path("params.yaml")
SOURCE = Path("data/source.json")
DOWNLOADS = Path("data/raw")
PREPARED = Path("data/prepared")
MODELS = Path("models")
CURVES = Path("curves")
METRICS = Path("metrics")
SCORES = Path("scores")
PROTOCOLS = METRICS / "protocol"
DIAGNOSTICS = METRICS / "diagnostics"
DOWNSTREAM = METRICS / "downstream"
REPORTS = Path("reports")
STUDIES = REPORTS / "studies"
STUDY = REPORTS / "study"  # of `flowvae study`; not an output of any stage
ROWS = STUDY / "rows"
STUDY_MODELS = STUDY / "models"
STUDY_DATA = Path("data/study")
FIGURES = REPORTS / "figures"
LATENTS = REPORTS / "latents"
TIMINGS = Path("timings")  # not an output of any stage: times differ from run to run
EPOCH_TIMES = TIMINGS / "epochs"
UNUSED = Path("unused")  # outputs of runs and studies that params.yaml does not declare
LOGS = Path("logs")
CHECKPOINTS = Path("checkpoints")  # of unfinished runs; not an output of any stage
ROW_STATE = CHECKPOINTS / "rows"  # checkpoints, locks and weights of the rows of a study
