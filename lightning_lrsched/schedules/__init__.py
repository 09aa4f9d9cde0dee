"""The schedules: hyperparameters of an optimizer as functions of the position; no torch in here."""
