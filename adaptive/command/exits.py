"""Exit statuses of the commands, for scripts."""

OK = 0  # done, and what was checked holds
FAILED = 1  # a run did not finish, or something to run it with is missing
USAGE = 2  # the request cannot be carried out; one sentence on stderr says why
DIVERGED = 3  # a filter's weights did not stay finite
PREDICTION_FAILS = 4  # the runs leave the band around the prediction
UNMET = 5  # no step size grants all wishes
INTERRUPTED = 130  # Ctrl-C

TABLE = (
    "exit status: 0 done; 1 failed; 2 wrong request; 3 a run diverged; 4 the prediction fails; "
    "5 no step grants all wishes; 130 interrupted"
)
