"""What `flowvae study` does."""

import argparse

from pipeline.rows.data import checksums, known_data, prepare_data
from pipeline.rows.findings import findings_of
from pipeline.rows.finishing import publish_models, to_finish
from pipeline.rows.plan import chosen, load_preset, rows_of
from pipeline.rows.records import is_current, rewrite_record
from pipeline.rows.running import run_rows
from pipeline.rows.state import State, read_records, read_state, status_lines


def run_study(options: argparse.Namespace) -> None:
    """Do what the options say.

    Raises:
        InputError: the preset, a record or the data are invalid, or rows failed.
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    preset, params = load_preset(options.preset)
    rows = chosen(rows_of(preset, params), options.only)
    if options.findings:
        from pipeline.rows.page import write_findings  # needs matplotlib

        for path in write_findings(findings_of(preset, rows, read_records(rows))):
            print(f"study: wrote {path}")
        return
    data = known_data(preset, params)
    if options.status:
        print("\n".join(status_lines(preset, read_state(rows, data), options.parallel)))
        return
    state = read_state(rows, data or checksums(prepare_data(preset, params)))
    if options.keep:
        state = keep(state)
    elif options.finish:
        run_rows(options.preset, to_finish(state), options.parallel, options.hours, finish=True)
        if options.only is None:
            publish_models(state)
    else:
        print(next(status_lines(preset, state, options.parallel)), flush=True)
        run_rows(options.preset, state.missing, options.parallel, options.hours)
    print(next(status_lines(preset, read_state(rows, state.data), options.parallel)))


def keep(state: State) -> State:
    """Let the records of rows of which only the code changed belong to the present code."""
    for row in state.missing:
        record = state.records.get(row.name)
        if record and is_current(row, kept := record.model_copy(update={"training_code": row.code}), state.data):
            rewrite_record(row, kept)
            print(f"study: {row.name}: kept")
    return read_state(state.rows, state.data)
