"""What every test process needs: one torch thread, so that parallel test processes do not fight for cores."""

import os

# Before any test imports them: OpenMP reads these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
