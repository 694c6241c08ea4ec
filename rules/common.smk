"""What every rule file uses: the study, fingerprints, and the functions that name inputs. No file names are invented here
that a rule does not spell out too."""

from workflow.config.study import load_study
