#!/bin/sh
# Run a stage with the Python that runs DVC, whatever environment is active and wherever DVC copied the project to.
# That is the closest ancestor with an argument "dvc", by Linux's /proc. Elsewhere: the project's .venv, else python3.
pid=$PPID
while [ "$pid" -gt 1 ] && [ -r "/proc/$pid/cmdline" ]; do
    if tr '\0' '\n' < "/proc/$pid/cmdline" | sed 1d | grep -Eq '(^|/)dvc$'; then
        python=$(tr '\0' '\n' < "/proc/$pid/cmdline" | sed -n 1p)
        case $python in
            */python* | python*) break ;;
        esac
        python=
    fi
    pid=$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$pid/status")
done
case ${python:-} in
    "") [ -x .venv/bin/python ] && python=.venv/bin/python || python=python3 ;;
    /*) ;;
    */*) python=$(readlink "/proc/$pid/cwd")/$python ;;
esac
exec "$python" -m pipeline "$@"
