"""What artefacts and CSV rows say about where they are from."""

import numpy

import skipvit
from skipvit import provenance


def test_versions_name_what_is_installed_and_leave_out_what_is_not() -> None:
    found = provenance.versions_of(["numpy", "no-such-package"])
    assert found["numpy"] == numpy.__version__
    assert found["skipvit"] == skipvit.__version__
    assert "no-such-package" not in found


def test_commit_and_machine_are_short_words_without_paths() -> None:
    assert provenance.commit()
    assert "/" not in provenance.commit()
    assert provenance.machine().endswith("CPUs")
